//! From text to [`Node`]: the grammar is the crate's, names and types are checked here, and every mistake says at which character it is.

use cel::{
    common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, SelectExpr, SourceInfo, operators},
    parser::Parser,
};

use super::{Comparison, Field, Figure, Function, MAX_INPUTS, MAX_NODES, MAX_TEXT, Node, Operator, Type, Variable};

/// How deep an expression may nest. The parser recurses as deep as that.
const MAX_DEPTH: u16 = 40;

/// What is wrong, and where: characters of the expression, from 1.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mistake {
    pub column: usize,
    pub detail: String,
}

/// Names that cannot be those of windows.
pub const RESERVED: [&str; 15] = [
    "value", "previous", "time", "quality", "district", "system", "hour", "minute", "weekday", "thing", "rate", "mean",
    "min", "max", "count",
];

/// What the formula of a derived Datastream may name (`crate::derived`): its inputs, each with value, time, quality and the figures of its window,
/// and its tables, which are functions.
#[derive(Clone, Copy)]
pub struct Names<'a> {
    pub inputs: &'a [String],
    pub tables: &'a [String],
}

/// What expressions of one rule may name, and what they have named.
pub struct Scope<'a> {
    windows: &'a [(String, u32)],
    names: Option<Names<'a>>,
    pub inputs: Vec<String>,
    pub local: bool,
    nodes: usize,
}

type Typed = (Node, Type);

impl<'a> Scope<'a> {
    pub fn new(windows: &'a [(String, u32)]) -> Self {
        Self { windows, names: None, inputs: Vec::new(), local: false, nodes: 0 }
    }
    /// Of a formula, which knows no value of its own.
    pub fn of(names: Names<'a>) -> Self {
        Self { windows: &[], names: Some(names), inputs: Vec::new(), local: false, nodes: 0 }
    }

    /// A condition.
    ///
    /// # Errors
    /// What is wrong first.
    pub fn compile(&mut self, text: &str) -> Result<Node, Mistake> {
        match self.typed(text)? {
            (node, Type::Bool) => Ok(node),
            (_, found) => {
                let detail = format!("a condition is expected (bool), this is a {}", found.name());
                Err(Mistake { column: 1, detail })
            }
        }
    }

    /// An expression of any type.
    ///
    /// # Errors
    /// What is wrong first.
    pub fn typed(&mut self, text: &str) -> Result<(Node, Type), Mistake> {
        let at_start = |detail: String| Mistake { column: 1, detail };
        if text.trim().is_empty() || text.len() > MAX_TEXT {
            return Err(at_start(format!("an expression of 1 to {MAX_TEXT} bytes is expected")));
        }
        // The parser builds its tree before anybody counts: brackets bound its depth, and what follows is a loop.
        if nesting(text) > usize::from(MAX_DEPTH) {
            return Err(at_start(format!("at most {MAX_DEPTH} levels of brackets are possible")));
        }
        let parser = Parser::new().max_recursion_depth(MAX_DEPTH).error_recovery_limit(1);
        let (tree, source) = parser.parse_with_source_info(text).map_err(|errors| {
            let first = errors.errors.first();
            let (line, column) = first.map_or((1, 1), |e| e.pos);
            let before: usize = text
                .split_inclusive('\n')
                .take(usize::try_from(line - 1).unwrap_or(0))
                .map(|l| l.chars().count())
                .sum();
            let column = before + usize::try_from(column).unwrap_or(1).max(1);
            let detail = first.map_or("it cannot be read", |e| e.msg.as_str());
            Mistake { column, detail: detail.chars().take(200).collect() }
        })?;
        self.nodes = 0;
        let mut at = Builder { scope: self, source: &source };
        at.node(&tree)
    }
}

/// The deepest nesting of brackets, and of signs before a value, outside of texts.
fn nesting(text: &str) -> usize {
    let (mut depth, mut deepest, mut signs, mut quote, mut escaped) = (0usize, 0usize, 0usize, None, false);
    for c in text.chars() {
        match (quote, c) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(q), c) if q == c => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '(' | '[' | '{') => depth += 1,
            (None, ')' | ']' | '}') => depth = depth.saturating_sub(1),
            (None, '!' | '-' | '?' | ':') => signs += 1,
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest.max(signs)
}

struct Builder<'s, 'a> {
    scope: &'s mut Scope<'a>,
    source: &'s SourceInfo,
}

impl Builder<'_, '_> {
    fn wrong<T>(&self, at: &IdedExpr, detail: impl Into<String>) -> Result<T, Mistake> {
        let column = self.source.offset_for(at.id).map_or(1, |(start, _)| start as usize + 1);
        Err(Mistake { column, detail: detail.into() })
    }

    fn node(&mut self, at: &IdedExpr) -> Result<Typed, Mistake> {
        self.scope.nodes += 1;
        if self.scope.nodes > MAX_NODES {
            return self.wrong(at, format!("the expression has more than {MAX_NODES} parts"));
        }
        match &at.expr {
            Expr::Literal(literal) => match literal {
                LiteralValue::Boolean(b) => Ok((Node::Bool(*b.inner()), Type::Bool)),
                LiteralValue::Int(i) => Ok((Node::Int(*i.inner()), Type::Int)),
                LiteralValue::Double(d) => Ok((Node::Double(*d.inner()), Type::Double)),
                LiteralValue::String(s) => Ok((Node::Text(s.inner().into()), Type::Text)),
                LiteralValue::UInt(_) => self.wrong(at, "unsigned numbers are not known here; leave out the 'u'"),
                LiteralValue::Bytes(_) | LiteralValue::Null => self.wrong(at, "bytes and null are not known here"),
            },
            Expr::Ident(name) => self.variable(at, name),
            Expr::Select(select) => self.select(at, select),
            Expr::Call(call) => self.call(at, call),
            Expr::List(_) => self.wrong(at, "a list can only stand after 'in'"),
            Expr::Comprehension(_) => self.wrong(at, "all, exists, exists_one, map and filter are not known here"),
            Expr::Map(_) | Expr::Struct(_) => self.wrong(at, "maps and messages are not known here"),
            Expr::Unspecified => self.wrong(at, "something is missing here"),
        }
    }

    fn variable(&mut self, at: &IdedExpr, name: &str) -> Result<Typed, Mistake> {
        let local = matches!(name, "hour" | "minute" | "weekday");
        self.scope.local |= local;
        let plain = |variable, kind| Ok((Node::Variable(variable), kind));
        if let Some(names) = self.scope.names {
            return match name {
                "time" => plain(Variable::Time, Type::Int),
                "hour" => plain(Variable::Hour, Type::Int),
                "minute" => plain(Variable::Minute, Type::Int),
                "weekday" => plain(Variable::Weekday, Type::Int),
                name if names.inputs.iter().any(|n| n == name) => {
                    self.wrong(at, format!("write {name}.value, {name}.mean, or another of its fields"))
                }
                name => self.wrong(at, format!("'{}' is not known here", shorten(name))),
            };
        }
        match name {
            "value" => plain(Variable::Value, Type::Double),
            "previous" => plain(Variable::Previous, Type::Double),
            "time" => plain(Variable::Time, Type::Int),
            "quality" => plain(Variable::Quality, Type::Text),
            "district" => plain(Variable::District, Type::Text),
            "system" => plain(Variable::System, Type::Text),
            "hour" => plain(Variable::Hour, Type::Int),
            "minute" => plain(Variable::Minute, Type::Int),
            "weekday" => plain(Variable::Weekday, Type::Int),
            "thing" => self.wrong(at, "write thing[\"key\"].value, with the key of a Datastream of the same Thing"),
            name => match figure(name) {
                Some(found) => match self.scope.windows.iter().position(|(n, _)| n.is_empty()) {
                    Some(window) => Ok(windowed(window, found)),
                    None => self.wrong(at, format!("'{name}' needs a window: add window = 600 (seconds) to 'when'")),
                },
                None if self.window(name).is_some() => {
                    self.wrong(at, format!("write {name}.mean, {name}.min, {name}.max, {name}.count or {name}.rate"))
                }
                None => self.wrong(at, format!("'{}' is not known here", shorten(name))),
            },
        }
    }

    fn window(&self, name: &str) -> Option<usize> {
        self.scope.windows.iter().position(|(n, _)| n == name && !n.is_empty())
    }

    /// `level.value`, `level.mean`, `has(level.value)` in a formula.
    fn of_input(&mut self, at: &IdedExpr, select: &SelectExpr, names: Names<'_>) -> Result<Typed, Mistake> {
        let Expr::Ident(name) = &select.operand.expr else { return self.wrong(at, "only inputs have fields") };
        let Some(index) = names.inputs.iter().position(|n| n == name) else {
            return self.wrong(&select.operand, format!("'{}' is not an input of this formula", shorten(name)));
        };
        let input = u8::try_from(index).unwrap_or(u8::MAX);
        let field = match select.field.as_str() {
            "value" => Some((Field::Value, Type::Double)),
            "time" => Some((Field::Time, Type::Int)),
            "quality" => Some((Field::Quality, Type::Text)),
            _ => None,
        };
        match (field, figure(&select.field)) {
            (Some(_), _) if select.test => Ok((Node::Variable(Variable::Has(input)), Type::Bool)),
            (Some((field, kind)), _) => Ok((Node::Variable(Variable::Input(input, field)), kind)),
            (None, Some(_)) if select.test => self.wrong(at, "has() is for the value; of a window ask for the count"),
            (None, Some(found)) => Ok(windowed(index, found)),
            (None, None) => {
                self.wrong(at, "an input has value, time and quality, and of its window mean, min, max, count and rate")
            }
        }
    }

    fn select(&mut self, at: &IdedExpr, select: &SelectExpr) -> Result<Typed, Mistake> {
        if let Some(names) = self.scope.names {
            return self.of_input(at, select, names);
        }
        if let Some(input) = self.input(&select.operand)? {
            let field = match select.field.as_str() {
                "value" => (Field::Value, Type::Double),
                "time" => (Field::Time, Type::Int),
                "quality" => (Field::Quality, Type::Text),
                _ => return self.wrong(at, "a neighbour has value, time and quality"),
            };
            return Ok(if select.test {
                (Node::Variable(Variable::Has(input)), Type::Bool)
            } else {
                (Node::Variable(Variable::Input(input, field.0)), field.1)
            });
        }
        let Expr::Ident(name) = &select.operand.expr else {
            return self.wrong(at, "only windows and thing[\"key\"] have fields");
        };
        let Some(window) = self.window(name) else {
            return self.wrong(&select.operand, format!("'{}' is not a window of this rule", shorten(name)));
        };
        if select.test {
            return self.wrong(at, "has() is for thing[\"key\"].value; of a window ask for the count");
        }
        match figure(&select.field) {
            Some(found) => Ok(windowed(window, found)),
            None => self.wrong(at, "a window has mean, min, max, count and rate"),
        }
    }

    /// `thing["key"]` or `thing.key`.
    fn input(&mut self, at: &IdedExpr) -> Result<Option<u8>, Mistake> {
        let is_thing = |e: &IdedExpr| matches!(&e.expr, Expr::Ident(name) if name == "thing");
        let key = match &at.expr {
            Expr::Select(select) if is_thing(&select.operand) && !select.test => select.field.clone(),
            Expr::Call(call) if call.func_name == operators::INDEX && call.args.first().is_some_and(is_thing) => {
                match call.args.get(1).map(|a| &a.expr) {
                    Some(Expr::Literal(LiteralValue::String(key))) => key.inner().to_owned(),
                    _ => return self.wrong(at, "the key of a Datastream is expected as a text"),
                }
            }
            _ => return Ok(None),
        };
        if key.is_empty() || key.len() > 200 {
            return self.wrong(at, "a key of 1 to 200 characters is expected");
        }
        let known = self.scope.inputs.iter().position(|k| *k == key);
        let index = known.unwrap_or_else(|| {
            self.scope.inputs.push(key);
            self.scope.inputs.len() - 1
        });
        if index >= MAX_INPUTS {
            return self.wrong(at, format!("at most {MAX_INPUTS} neighbours can be looked at"));
        }
        Ok(u8::try_from(index).ok())
    }

    fn call(&mut self, at: &IdedExpr, call: &CallExpr) -> Result<Typed, Mistake> {
        if let Some(target) = &call.target {
            return self.method(at, call, target);
        }
        let name = call.func_name.as_str();
        match (name, call.args.as_slice()) {
            (operators::CONDITIONAL, [test, yes, no]) => {
                let test = self.expect(test, Type::Bool)?;
                let ((yes, left), (no, right)) = (self.node(yes)?, self.node(no)?);
                let (yes, no, kind) = match unify(yes, left, no, right) {
                    Some(both) => both,
                    None => return self.wrong(at, mismatch("both branches", left, right)),
                };
                Ok((Node::Choice(Box::new([test, yes, no])), kind))
            }
            (operators::LOGICAL_AND, [a, b]) => {
                let both = [self.expect(a, Type::Bool)?, self.expect(b, Type::Bool)?];
                Ok((Node::And(Box::new(both)), Type::Bool))
            }
            (operators::LOGICAL_OR, [a, b]) => {
                let both = [self.expect(a, Type::Bool)?, self.expect(b, Type::Bool)?];
                Ok((Node::Or(Box::new(both)), Type::Bool))
            }
            (operators::LOGICAL_NOT, [a]) => Ok((Node::Not(Box::new(self.expect(a, Type::Bool)?)), Type::Bool)),
            (operators::NEGATE, [a]) => match self.node(a)? {
                (node, kind @ (Type::Int | Type::Double)) => Ok((Node::Negate(Box::new(node)), kind)),
                (_, kind) => self.wrong(at, format!("a {} cannot be negated", kind.name())),
            },
            (operators::IN, [one, list]) => self.member(at, one, list),
            (operators::INDEX, _) if self.scope.names.is_some() => self.wrong(at, "inputs are named without brackets"),
            (operators::INDEX, _) => self.wrong(at, "write thing[\"key\"].value, .time or .quality"),
            ("double", [a]) => self.number(at, a, Function::Double, Type::Double),
            ("int", [a]) => self.number(at, a, Function::Int, Type::Int),
            (name, [a]) if self.table(name).is_some() => {
                let table = self.table(name).unwrap_or_default();
                Ok((Node::Call(Function::Table(table), vec![self.double(a)?]), Type::Double))
            }
            (name, [a, b]) => {
                if let Some(comparison) = comparison(name) {
                    return self.compare(at, comparison, a, b);
                }
                match operator(name) {
                    Some(operator) => self.arithmetic(at, operator, a, b),
                    None => self.wrong(at, format!("the function '{}' is not known here", shorten(name))),
                }
            }
            _ => self.wrong(at, format!("the function '{}' is not known here", shorten(name))),
        }
    }

    fn method(&mut self, at: &IdedExpr, call: &CallExpr, target: &IdedExpr) -> Result<Typed, Mistake> {
        let of_math = matches!(&target.expr, Expr::Ident(name) if name == "math");
        let function = match call.func_name.as_str() {
            "abs" if of_math => Function::Abs,
            "least" if of_math => Function::Least,
            "greatest" if of_math => Function::Greatest,
            "exp" if of_math => Function::Exp,
            "ln" if of_math => Function::Ln,
            "sqrt" if of_math => Function::Sqrt,
            "pow" if of_math => Function::Power,
            "round" if of_math => Function::Round,
            "floor" if of_math => Function::Floor,
            "ceil" if of_math => Function::Ceil,
            "startsWith" => Function::StartsWith,
            "endsWith" => Function::EndsWith,
            "contains" => Function::Contains,
            name => return self.wrong(at, format!("the function '{}' is not known here", shorten(name))),
        };
        match (function, call.args.as_slice()) {
            (Function::Abs, [a]) => match self.node(a)? {
                (node, kind @ (Type::Int | Type::Double)) => Ok((Node::Call(function, vec![node]), kind)),
                (_, kind) => self.wrong(at, format!("a number is expected, this is a {}", kind.name())),
            },
            (Function::Least | Function::Greatest, [a, b]) => {
                let ((a, left), (b, right)) = (self.node(a)?, self.node(b)?);
                match unify(a, left, b, right) {
                    Some((a, b, kind @ (Type::Int | Type::Double))) => Ok((Node::Call(function, vec![a, b]), kind)),
                    _ => self.wrong(at, mismatch("both", left, right)),
                }
            }
            (
                Function::Exp | Function::Ln | Function::Sqrt | Function::Round | Function::Floor | Function::Ceil,
                [a],
            ) => Ok((Node::Call(function, vec![self.double(a)?]), Type::Double)),
            (Function::Power, [a, b]) => {
                Ok((Node::Call(function, vec![self.double(a)?, self.double(b)?]), Type::Double))
            }
            (Function::StartsWith | Function::EndsWith | Function::Contains, [part]) => {
                let both = vec![self.expect(target, Type::Text)?, self.expect(part, Type::Text)?];
                Ok((Node::Call(function, both), Type::Bool))
            }
            _ => self.wrong(at, format!("'{}' has another number of arguments", call.func_name)),
        }
    }

    fn number(&mut self, at: &IdedExpr, a: &IdedExpr, function: Function, kind: Type) -> Result<Typed, Mistake> {
        match self.node(a)? {
            (node, Type::Int | Type::Double) => Ok((Node::Call(function, vec![node]), kind)),
            (_, found) => self.wrong(at, format!("a number is expected, this is a {}", found.name())),
        }
    }

    fn table(&self, name: &str) -> Option<u8> {
        let tables = self.scope.names?.tables;
        tables.iter().position(|t| t == name).and_then(|at| u8::try_from(at).ok())
    }

    /// A fraction, or a whole number taken for one.
    fn double(&mut self, at: &IdedExpr) -> Result<Node, Mistake> {
        match self.node(at)? {
            (node, Type::Double) => Ok(node),
            (node, Type::Int) => Ok(Node::Call(Function::Double, vec![node])),
            (_, found) => self.wrong(at, format!("a number is expected, this is a {}", found.name())),
        }
    }

    fn expect(&mut self, at: &IdedExpr, kind: Type) -> Result<Node, Mistake> {
        match self.node(at)? {
            (node, found) if found == kind => Ok(node),
            (_, found) => self.wrong(at, format!("a {} is expected, this is a {}", kind.name(), found.name())),
        }
    }

    fn member(&mut self, at: &IdedExpr, one: &IdedExpr, list: &IdedExpr) -> Result<Typed, Mistake> {
        let Expr::List(items) = &list.expr else { return self.wrong(list, "a list such as [1, 2] is expected") };
        let (node, kind) = self.node(one)?;
        let mut all = Vec::with_capacity(items.elements.len());
        for item in &items.elements {
            let (node, found) = self.node(item)?;
            if !comparable(kind, found) {
                return self.wrong(item, format!("a {} is expected, this is a {}", kind.name(), found.name()));
            }
            all.push(node);
        }
        if !items.optional_indices.is_empty() {
            return self.wrong(at, "optional elements are not known here");
        }
        Ok((Node::In(Box::new(node), all), Type::Bool))
    }

    fn compare(&mut self, at: &IdedExpr, how: Comparison, a: &IdedExpr, b: &IdedExpr) -> Result<Typed, Mistake> {
        let ((a, left), (b, right)) = (self.node(a)?, self.node(b)?);
        let ordered = matches!(how, Comparison::Equal | Comparison::Unequal) || left != Type::Bool;
        if !comparable(left, right) || !ordered {
            return self.wrong(at, format!("a {} cannot be compared with a {}", left.name(), right.name()));
        }
        Ok((Node::Compare(how, Box::new([a, b])), Type::Bool))
    }

    fn arithmetic(&mut self, at: &IdedExpr, how: Operator, a: &IdedExpr, b: &IdedExpr) -> Result<Typed, Mistake> {
        let ((a, left), (b, right)) = (self.node(a)?, self.node(b)?);
        match unify(a, left, b, right) {
            Some((_, _, Type::Double)) if how == Operator::Remainder => {
                self.wrong(at, "'%' is for whole numbers; write int(…)")
            }
            Some((a, b, kind @ (Type::Int | Type::Double))) => Ok((Node::Arithmetic(how, Box::new([a, b])), kind)),
            _ => self.wrong(at, mismatch("both sides", left, right)),
        }
    }
}

/// Both of one kind: a whole number that is written out may stand where a fraction is meant, so that `value * 2` is no mistake.
fn unify(a: Node, left: Type, b: Node, right: Type) -> Option<(Node, Node, Type)> {
    match (a, left, b, right) {
        (a, left, b, right) if left == right => Some((a, b, left)),
        (Node::Int(i), _, b, Type::Double) => Some((Node::Double(i as f64), b, Type::Double)),
        (a, Type::Double, Node::Int(i), _) => Some((a, Node::Double(i as f64), Type::Double)),
        _ => None,
    }
}

fn mismatch(what: &str, left: Type, right: Type) -> String {
    format!(
        "{what} must be numbers of one kind, these are {} and {}; write double(…) or int(…)",
        left.name(),
        right.name()
    )
}

fn comparable(left: Type, right: Type) -> bool {
    let number = |t| matches!(t, Type::Int | Type::Double);
    left == right || (number(left) && number(right))
}

fn windowed(window: usize, figure: Figure) -> Typed {
    let kind = if figure == Figure::Count { Type::Int } else { Type::Double };
    (Node::Variable(Variable::Window(u8::try_from(window).unwrap_or(u8::MAX), figure)), kind)
}

fn figure(name: &str) -> Option<Figure> {
    Figure::ALL.into_iter().find(|(n, _)| *n == name).map(|(_, f)| f)
}

fn comparison(name: &str) -> Option<Comparison> {
    Some(match name {
        operators::EQUALS => Comparison::Equal,
        operators::NOT_EQUALS => Comparison::Unequal,
        operators::LESS => Comparison::Less,
        operators::LESS_EQUALS => Comparison::AtMost,
        operators::GREATER => Comparison::Greater,
        operators::GREATER_EQUALS => Comparison::AtLeast,
        _ => return None,
    })
}

fn operator(name: &str) -> Option<Operator> {
    Some(match name {
        operators::ADD => Operator::Add,
        operators::SUBSTRACT => Operator::Subtract,
        operators::MULTIPLY => Operator::Multiply,
        operators::DIVIDE => Operator::Divide,
        operators::MODULO => Operator::Remainder,
        _ => return None,
    })
}

fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}
