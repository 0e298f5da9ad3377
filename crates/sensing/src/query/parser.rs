//! From text to tree. Recursive descent with a bound on depth and size, so that no text can exhaust stack or memory.

use super::{
    Fault,
    ast::{At, Expand, Expr, Lambda, Literal, Operator, Options},
    functions::Function,
    lexer::{Token, lex},
};

/// Levels of parentheses, calls and expansions.
const DEPTH: u32 = 40;
/// Nodes of one expression.
const NODES: usize = 2_000;
/// Navigations of all levels together.
const EXPANSIONS: usize = 60;
/// Levels of expansions.
const EXPAND_DEPTH: u32 = 8;

/// Parses a `$filter`.
pub fn filter(text: &str) -> Result<Expr, Fault> {
    let mut parser = Parser::new(text)?;
    let expr = parser.expr(0)?;
    parser.end("'and', 'or' or the end")?;
    Ok(expr)
}

/// Parses an `$orderby`.
pub fn order(text: &str) -> Result<Vec<(Expr, bool)>, Fault> {
    let mut parser = Parser::new(text)?;
    let order = parser.order()?;
    parser.end("',', 'asc', 'desc' or the end")?;
    Ok(order)
}

/// Parses an `$expand`.
pub fn expand(text: &str) -> Result<Vec<Expand>, Fault> {
    let mut parser = Parser::new(text)?;
    let expand = parser.expand(EXPAND_DEPTH)?;
    parser.end("',' or the end")?;
    Ok(expand)
}

/// Parses a `$select`.
pub fn select(text: &str) -> Result<Vec<(Vec<String>, At)>, Fault> {
    let mut parser = Parser::new(text)?;
    let select = parser.select()?;
    parser.end("',' or the end")?;
    Ok(select)
}

struct Parser {
    tokens: Vec<(Token, At)>,
    next: usize,
    end: At,
    depth: u32,
    nodes: usize,
    expansions: usize,
}

impl Parser {
    fn new(text: &str) -> Result<Self, Fault> {
        let tokens = lex(text)?;
        Ok(Self { tokens, next: 0, end: text.chars().count() + 1, depth: 0, nodes: 0, expansions: 0 })
    }
    fn at(&self) -> At {
        self.tokens.get(self.next).map_or(self.end, |(_, at)| *at)
    }
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next).map(|(token, _)| token)
    }
    fn peek_word(&self) -> Option<&str> {
        match self.peek() {
            Some(Token::Word(word)) => Some(word),
            _ => None,
        }
    }
    fn sign(&mut self, sign: char) -> bool {
        let found = self.peek() == Some(&Token::Sign(sign));
        self.next += usize::from(found);
        found
    }
    fn need(&mut self, sign: char) -> Result<(), Fault> {
        if self.sign(sign) { Ok(()) } else { Err(self.expected(&format!("'{sign}'"))) }
    }
    fn expected(&self, what: &str) -> Fault {
        let found = match self.peek() {
            None => "the text ends".to_owned(),
            Some(Token::Word(word)) => format!("'{word}' was found"),
            Some(Token::Literal(literal)) => format!("{literal} was found"),
            Some(Token::Sign(sign)) => format!("'{sign}' was found"),
            Some(Token::Slash) => "'/' was found".to_owned(),
        };
        Fault::at(self.at(), format!("{what} is expected, but {found}"))
    }
    fn end(&self, instead: &str) -> Result<(), Fault> {
        if self.peek().is_none() { Ok(()) } else { Err(self.expected(instead)) }
    }
    fn deeper<T>(&mut self, part: impl FnOnce(&mut Self) -> Result<T, Fault>) -> Result<T, Fault> {
        if self.depth >= DEPTH {
            return Err(Fault::at(self.at(), format!("the expression is nested more than {DEPTH} levels deep")));
        }
        self.depth += 1;
        let result = part(self);
        self.depth -= 1;
        result
    }

    fn operator(&self) -> Option<Operator> {
        match self.peek()? {
            Token::Word(word) => Operator::ALL.into_iter().find(|o| o.as_str() == word),
            Token::Sign('+') => Some(Operator::Add),
            Token::Sign('-') => Some(Operator::Sub),
            Token::Sign('*') => Some(Operator::Mul),
            Token::Sign('/') => Some(Operator::Div),
            _ => None,
        }
    }

    /// Precedence climbing: everything that binds at least as tight as `floor`.
    fn expr(&mut self, floor: u8) -> Result<Expr, Fault> {
        self.deeper(|p| {
            let mut left = p.unary()?;
            while let Some(operator) = p.operator() {
                if operator.binding() < floor {
                    break;
                }
                let at = p.at();
                p.next += 1;
                let right = p.expr(operator.binding() + 1)?;
                p.count()?;
                left = Expr::Binary(operator, Box::new(left), Box::new(right), at);
            }
            Ok(left)
        })
    }

    fn count(&mut self) -> Result<(), Fault> {
        self.nodes += 1;
        if self.nodes > NODES {
            return Err(Fault::at(self.at(), format!("the expression has more than {NODES} parts")));
        }
        Ok(())
    }

    fn unary(&mut self) -> Result<Expr, Fault> {
        self.count()?;
        let at = self.at();
        // `not` takes the whole comparison. For `not a eq b` OData would read `(not a) eq b`, which over two booleans is the same.
        if self.peek_word() == Some("not") {
            self.next += 1;
            let inner = self.expr(Operator::Eq.binding())?;
            return Ok(Expr::Not(Box::new(inner), at));
        }
        if self.sign('-') {
            if let Some(Token::Literal(Literal::Number(number))) = self.peek() {
                let literal = Literal::Number(-number);
                self.next += 1;
                return Ok(Expr::Literal(literal, at));
            }
            let inner = self.deeper(Self::unary)?;
            return Ok(Expr::Negate(Box::new(inner), at));
        }
        self.primary()
    }

    fn primary(&mut self) -> Result<Expr, Fault> {
        let at = self.at();
        match self.peek().cloned() {
            Some(Token::Literal(literal)) => {
                self.next += 1;
                Ok(Expr::Literal(literal, at))
            }
            Some(Token::Sign('(')) => {
                self.next += 1;
                let inner = self.expr(0)?;
                self.need(')')?;
                Ok(inner)
            }
            Some(Token::Word(word)) => {
                if Operator::ALL.iter().any(|o| o.as_str() == word) {
                    return Err(self.expected("a property, a value or a function"));
                }
                self.next += 1;
                if self.sign('(') {
                    return self.call(&word, at);
                }
                let segments = self.path(word)?;
                if self.before_lambda() {
                    return self.lambda(segments, at);
                }
                Ok(Expr::Path(segments, at))
            }
            _ => Err(self.expected("a property, a value or a function")),
        }
    }

    fn call(&mut self, name: &str, at: At) -> Result<Expr, Fault> {
        let Some(function) = Function::from_name(name) else {
            let near = Function::ALL.iter().map(|f| f.name()).collect::<Vec<_>>().join(", ");
            return Err(Fault::at(at, format!("'{name}' is not a function; there are {near}")));
        };
        let mut arguments = Vec::new();
        if !self.sign(')') {
            loop {
                arguments.push(self.expr(0)?);
                if self.sign(')') {
                    break;
                }
                self.need(',')?;
            }
        }
        let (fewest, most) = function.arity();
        if !(fewest..=most).contains(&arguments.len()) {
            let wanted = if fewest == most { fewest.to_string() } else { format!("{fewest} or {most}") };
            return Err(Fault::at(at, format!("{name} takes {wanted} arguments, not {}", arguments.len())));
        }
        Ok(Expr::Call(function, arguments, at))
    }

    /// Whether `/any(` or `/all(` comes next.
    fn before_lambda(&self) -> bool {
        let word = |token: &(Token, At)| matches!(&token.0, Token::Word(word) if word == "any" || word == "all");
        self.peek() == Some(&Token::Slash)
            && self.tokens.get(self.next + 1).is_some_and(word)
            && self.tokens.get(self.next + 2).is_some_and(|(token, _)| *token == Token::Sign('('))
    }

    fn lambda(&mut self, path: Vec<String>, at: At) -> Result<Expr, Fault> {
        self.next += 1;
        let all = self.peek_word() == Some("all");
        self.next += 2;
        let (mut name, mut predicate) = (String::new(), None);
        if all || !self.sign(')') {
            let word = self.peek_word().filter(|word| is_name(word)).map(str::to_owned);
            name = word.ok_or_else(|| self.expected("a name for one of them, as in any(d: d/name eq 'x'),"))?;
            self.next += 1;
            self.need(':')?;
            predicate = Some(self.expr(0)?);
            self.need(')')?;
        }
        Ok(Expr::Lambda(Box::new(Lambda { all, path, name, predicate }), at))
    }

    /// The rest of a path whose first name is read: `/name` and, of an array, `[0]`. The standard leaves open how an element of `result` is
    /// named; the brackets are what other servers of MultiDatastreams understand.
    fn path(&mut self, first: String) -> Result<Vec<String>, Fault> {
        const SEGMENTS: usize = 16;
        let mut segments = vec![first];
        loop {
            if self.sign('[') {
                segments.push(self.index()?);
                self.need(']')?;
            } else if self.peek() == Some(&Token::Slash) && !self.before_lambda() {
                self.next += 1;
                match self.peek().cloned() {
                    Some(Token::Word(word)) => segments.push(word),
                    Some(Token::Literal(Literal::Text(text))) => segments.push(text),
                    // Words that mean something else elsewhere are plain names in a path.
                    Some(Token::Literal(literal @ (Literal::Null | Literal::Bool(_)))) => {
                        segments.push(literal.to_string())
                    }
                    _ => return Err(self.expected("a property name")),
                }
                self.next += 1;
            } else {
                return Ok(segments);
            }
            if segments.len() > SEGMENTS {
                return Err(Fault::at(self.at(), format!("a path has at most {SEGMENTS} parts")));
            }
        }
    }

    /// A place in an array, as it is a name inside a path.
    fn index(&mut self) -> Result<String, Fault> {
        match self.peek() {
            Some(Token::Literal(Literal::Number(n))) if *n >= 0.0 && n.fract() == 0.0 && *n < 1e9 => {
                let index = (*n as u32).to_string();
                self.next += 1;
                Ok(index)
            }
            _ => Err(self.expected("a place in an array, from 0,")),
        }
    }

    fn name(&mut self, what: &str) -> Result<Vec<String>, Fault> {
        match self.peek().cloned() {
            Some(Token::Word(word)) => {
                self.next += 1;
                self.path(word)
            }
            _ => Err(self.expected(what)),
        }
    }

    fn order(&mut self) -> Result<Vec<(Expr, bool)>, Fault> {
        const KEYS: usize = 8;
        let mut keys = Vec::new();
        loop {
            let expr = self.expr(0)?;
            let descending = match self.peek_word() {
                Some("asc") => Some(false),
                Some("desc") => Some(true),
                _ => None,
            };
            self.next += usize::from(descending.is_some());
            keys.push((expr, descending.unwrap_or(false)));
            if !self.sign(',') {
                return Ok(keys);
            }
            if keys.len() >= KEYS {
                return Err(Fault::at(self.at(), format!("$orderby takes at most {KEYS} keys")));
            }
        }
    }

    fn select(&mut self) -> Result<Vec<(Vec<String>, At)>, Fault> {
        const NAMES: usize = 60;
        let mut names = Vec::new();
        loop {
            let at = self.at();
            if self.sign('*') {
                names.push((vec!["*".to_owned()], at));
            } else {
                names.push((self.name("a property name")?, at));
            }
            if !self.sign(',') {
                return Ok(names);
            }
            if names.len() >= NAMES {
                return Err(Fault::at(self.at(), format!("$select takes at most {NAMES} names")));
            }
        }
    }

    fn expand(&mut self, depth: u32) -> Result<Vec<Expand>, Fault> {
        let Some(depth) = depth.checked_sub(1) else {
            return Err(Fault::at(self.at(), format!("$expand is nested more than {EXPAND_DEPTH} levels deep")));
        };
        let mut all: Vec<Expand> = Vec::new();
        loop {
            let at = self.at();
            let segments = self.name("a navigation property")?;
            if segments.len() as u32 > depth + 1 {
                return Err(Fault::at(at, format!("$expand is nested more than {EXPAND_DEPTH} levels deep")));
            }
            self.expansions += segments.len();
            if self.expansions > EXPANSIONS {
                return Err(Fault::at(at, format!("a request expands at most {EXPANSIONS} navigation properties")));
            }
            let options =
                if self.sign('(') { self.options(depth + 1 - segments.len() as u32)? } else { Options::default() };
            insert(&mut all, segments, at, options)?;
            if !self.sign(',') {
                return Ok(all);
            }
        }
    }

    /// The options in the parentheses of an expansion, separated by `;`.
    fn options(&mut self, depth: u32) -> Result<Options, Fault> {
        let mut options = Options::default();
        loop {
            let at = self.at();
            let Some(name) = self.peek_word().map(str::to_owned) else { return Err(self.expected("a query option")) };
            self.next += 1;
            self.need('=')?;
            match name.as_str() {
                "$filter" => options.filter = Some(self.expr(0)?),
                "$orderby" => options.order = self.order()?,
                "$select" => options.select = Some(self.select()?),
                "$expand" => options.expand = self.expand(depth)?,
                "$top" => options.top = Some(self.number()?),
                "$skip" => options.skip = Some(self.number()?),
                "$count" => match self.peek() {
                    Some(Token::Literal(Literal::Bool(value))) => {
                        options.count = Some(*value);
                        self.next += 1;
                    }
                    _ => return Err(self.expected("true or false")),
                },
                _ => {
                    let known = "$filter, $select, $orderby, $skip, $top, $count and $expand";
                    return Err(Fault::at(at, format!("'{name}' is not an option of an expansion; there are {known}")));
                }
            }
            if self.sign(')') {
                return Ok(options);
            }
            self.need(';')?;
            if self.sign(')') {
                return Ok(options);
            }
        }
    }

    fn number(&mut self) -> Result<u64, Fault> {
        match self.peek() {
            Some(Token::Literal(Literal::Number(n))) if *n >= 0.0 && n.fract() == 0.0 && *n < 9e15 => {
                let number = *n as u64;
                self.next += 1;
                Ok(number)
            }
            _ => Err(self.expected("a whole number that is not negative")),
        }
    }
}

/// What a lambda may call an entity: no sign of the language's own.
fn is_name(word: &str) -> bool {
    let plain = word.chars().all(|c| c.is_alphanumeric() || c == '_');
    plain && !Operator::ALL.iter().any(|o| o.as_str() == word) && word != "not"
}

/// `A/B(…)` is `A($expand=B(…))`; the same first name twice is one expansion.
fn insert(all: &mut Vec<Expand>, segments: Vec<String>, at: At, options: Options) -> Result<(), Fault> {
    let mut segments = segments.into_iter();
    let Some(name) = segments.next() else { return Ok(()) };
    let rest: Vec<String> = segments.collect();
    let index = match all.iter().position(|e| e.name == name) {
        Some(index) => index,
        None => {
            all.push(Expand { name: name.clone(), at, options: Options::default() });
            all.len() - 1
        }
    };
    let Some(slot) = all.get_mut(index) else { return Ok(()) };
    if !rest.is_empty() {
        return insert(&mut slot.options.expand, rest, at, options);
    }
    if options == Options::default() {
        return Ok(());
    }
    if slot.options != Options::default() {
        return Err(Fault::at(at, format!("'{name}' is expanded twice with options; write it once")));
    }
    slot.options = options;
    Ok(())
}
