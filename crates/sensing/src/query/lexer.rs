//! The text of a filter as words.

use kernel::{Interval, Timestamp};

use super::{
    Fault,
    ast::{At, Literal},
};

#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    /// A name, keyword or operator word. `/` and what follows it directly are separate tokens.
    Word(String),
    Literal(Literal),
    /// One of `( ) [ ] , ; : + - * /` and `=`.
    Sign(char),
    /// A slash with nothing but names on both sides: a path, not a division.
    Slash,
}

/// Bytes of one option.
pub const MAX_TEXT: usize = 32 << 10;
const MAX_TOKENS: usize = 8_000;

pub fn lex(text: &str) -> Result<Vec<(Token, At)>, Fault> {
    if text.len() > MAX_TEXT {
        return Err(Fault::at(1, format!("the option is longer than {MAX_TEXT} bytes")));
    }
    let chars: Vec<char> = text.chars().collect();
    let mut lexer = Lexer { chars, at: 0 };
    let mut tokens = Vec::new();
    while let Some(token) = lexer.next()? {
        tokens.push(token);
        if tokens.len() > MAX_TOKENS {
            return Err(Fault::at(1, format!("the option has more than {MAX_TOKENS} words")));
        }
    }
    Ok(tokens)
}

struct Lexer {
    chars: Vec<char>,
    at: usize,
}

fn starts_name(c: char) -> bool {
    c.is_alphabetic() || matches!(c, '_' | '@' | '$')
}
fn in_name(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '@' | '.' | '$')
}

impl Lexer {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn next(&mut self) -> Result<Option<(Token, At)>, Fault> {
        while self.peek(0).is_some_and(char::is_whitespace) {
            self.at += 1;
        }
        let Some(c) = self.peek(0) else { return Ok(None) };
        let place = self.at + 1;
        let token = match c {
            '\'' => Token::Literal(Literal::Text(self.string()?)),
            '0'..='9' => Token::Literal(self.number_or_time()?),
            '.' if self.peek(1).is_some_and(|d| d.is_ascii_digit()) => Token::Literal(self.number_or_time()?),
            '/' => {
                self.at += 1;
                let joins = |c: char| in_name(c) || matches!(c, ')' | ']' | '\'');
                let before = place >= 2 && joins(self.chars[place - 2]);
                let after = self.peek(0).is_some_and(|c| starts_name(c) || c == '\'');
                if before && after { Token::Slash } else { Token::Sign('/') }
            }
            '(' | ')' | '[' | ']' | ',' | ';' | ':' | '+' | '-' | '*' | '=' => {
                self.at += 1;
                Token::Sign(c)
            }
            c if starts_name(c) => self.word()?,
            c => return Err(Fault::at(place, format!("'{}' has no meaning here", c.escape_default()))),
        };
        Ok(Some((token, place)))
    }

    fn string(&mut self) -> Result<String, Fault> {
        let place = self.at + 1;
        self.at += 1;
        let mut text = String::new();
        loop {
            match self.peek(0) {
                Some('\'') if self.peek(1) == Some('\'') => {
                    text.push('\'');
                    self.at += 2;
                }
                Some('\'') => {
                    self.at += 1;
                    return Ok(text);
                }
                Some(c) => {
                    text.push(c);
                    self.at += 1;
                }
                None => return Err(Fault::at(place, "the string that begins here has no closing quote")),
            }
        }
    }

    fn word(&mut self) -> Result<Token, Fault> {
        let start = self.at;
        while let Some(c) = self.peek(0) {
            // A hyphen inside a name (`properties/pole-number`) has letters directly on both sides; a subtraction has spaces.
            let hyphen = c == '-'
                && self.chars.get(self.at.wrapping_sub(1)).is_some_and(|c| c.is_alphanumeric())
                && self.peek(1).is_some_and(char::is_alphabetic);
            if !in_name(c) && !hyphen {
                break;
            }
            self.at += 1;
        }
        let word: String = self.chars[start..self.at].iter().collect();
        if self.peek(0) == Some('\'') {
            let place = start + 1;
            match word.as_str() {
                "geography" | "geometry" => return self.string().map(|s| Token::Literal(Literal::Geometry(s))),
                "duration" => {
                    let text = self.string()?;
                    let micros = duration(&text)
                        .ok_or_else(|| Fault::at(place, "a duration looks like duration'P1DT2H30M' (ISO 8601)"))?;
                    return Ok(Token::Literal(Literal::Duration(micros)));
                }
                _ => {}
            }
        }
        Ok(match word.as_str() {
            "null" => Token::Literal(Literal::Null),
            "true" => Token::Literal(Literal::Bool(true)),
            "false" => Token::Literal(Literal::Bool(false)),
            _ => Token::Word(word),
        })
    }

    /// `5`, `-1.5e3` (without the sign), `2026-11-22`, `2026-11-22T09:00:00Z`, an interval of two such, `09:30:00`.
    fn number_or_time(&mut self) -> Result<Literal, Fault> {
        let place = self.at + 1;
        let looks = |from: usize, pattern: &str| {
            pattern.chars().enumerate().all(|(i, p)| match self.chars.get(from + i) {
                Some(c) if p == 'd' => c.is_ascii_digit(),
                Some(c) => *c == p,
                None => false,
            })
        };
        if looks(self.at, "dddd-dd-ddTdd:dd") {
            let start = self.time()?;
            if self.peek(0) != Some('/') {
                return Ok(Literal::Time(start));
            }
            let end = match self.peek(1) {
                Some('0'..='9') => {
                    self.at += 1;
                    self.time()?
                }
                Some('P') => {
                    self.at += 1;
                    let from = self.at;
                    while self.peek(0).is_some_and(|c| c.is_ascii_alphanumeric() || c == '.') {
                        self.at += 1;
                    }
                    let text: String = self.chars[from..self.at].iter().collect();
                    let micros =
                        duration(&text).ok_or_else(|| Fault::at(from + 1, "this is not an ISO 8601 duration"))?;
                    start.plus_micros(micros)
                }
                _ => return Ok(Literal::Time(start)),
            };
            if end < start || end > Timestamp::MAX {
                return Err(Fault::at(place, "the interval ends before it starts, or after the year 9999"));
            }
            return Ok(Literal::Interval(Interval { start, end }));
        }
        if looks(self.at, "dddd-dd-dd") {
            let text: String = self.chars[self.at..self.at + 10].iter().collect();
            let at: Timestamp =
                format!("{text}T00:00:00Z").parse().map_err(|_| Fault::at(place, "there is no such date"))?;
            self.at += 10;
            return Ok(Literal::Date(at.as_micros().div_euclid(86_400_000_000)));
        }
        if looks(self.at, "dd:dd") {
            let from = self.at;
            while self.peek(0).is_some_and(|c| c.is_ascii_digit() || matches!(c, ':' | '.')) {
                self.at += 1;
            }
            let mut text: String = self.chars[from..self.at].iter().collect();
            if text.len() == 5 {
                text.push_str(":00");
            }
            let at: Timestamp = format!("1970-01-01T{text}Z")
                .parse()
                .map_err(|_| Fault::at(place, "a time of day looks like 09:30:00"))?;
            return Ok(Literal::TimeOfDay(at.as_micros()));
        }
        let from = self.at;
        while let Some(c) = self.peek(0) {
            let exponent_sign =
                matches!(c, '+' | '-') && matches!(self.chars[self.at - 1], 'e' | 'E') && self.at > from;
            if !(c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E') || exponent_sign) {
                break;
            }
            self.at += 1;
        }
        let text: String = self.chars[from..self.at].iter().collect();
        // OData marks 64-bit and floating-point numbers with a letter.
        if self.peek(0).is_some_and(|c| matches!(c, 'd' | 'D' | 'f' | 'F' | 'm' | 'M' | 'l' | 'L'))
            && !self.peek(1).is_some_and(in_name)
        {
            self.at += 1;
        }
        let glued = self.peek(0).is_some_and(|c| c.is_alphanumeric() || c == '_');
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() && !glued => Ok(Literal::Number(number)),
            _ => Err(Fault::at(place, "this is not a number; text stands in single quotes: 'lamp 7'")),
        }
    }

    fn time(&mut self) -> Result<Timestamp, Fault> {
        let from = self.at;
        // Date, T, hours and minutes are digits and signs; then come seconds, a fraction and an offset.
        while self.peek(0).is_some_and(|c| c.is_ascii_digit() || matches!(c, '-' | 'T' | ':' | '.')) {
            self.at += 1;
        }
        let mut text: String = self.chars[from..self.at].iter().collect();
        let offset = |lexer: &Self, from: usize| {
            let at = |i: usize| lexer.chars.get(from + i).copied();
            let digit = |i: usize| at(i).is_some_and(|c| c.is_ascii_digit());
            if digit(0) && digit(1) && at(2) == Some(':') && digit(3) && digit(4) { 5 } else { 4 }
        };
        match self.peek(0) {
            Some('Z' | 'z') => {
                text.push('Z');
                self.at += 1;
            }
            // A '+' that was not percent-encoded arrives as a space.
            Some('+' | ' ') if self.peek(1).is_some_and(|c| c.is_ascii_digit()) => {
                let length = offset(self, self.at + 1);
                let end = (self.at + 1 + length).min(self.chars.len());
                text.push('+');
                text.extend(&self.chars[self.at + 1..end]);
                self.at = end;
            }
            _ => {}
        }
        let seconds = text.len() == 17 || text.as_bytes().get(16).is_some_and(|b| *b != b':');
        if seconds {
            text.insert_str(16, ":00");
        }
        let parsed: Result<Timestamp, _> = text.parse();
        parsed.ok().filter(|at| (Timestamp::MIN..=Timestamp::MAX).contains(at)).ok_or_else(|| {
            Fault::at(
                from + 1,
                "a time needs its offset: 2026-11-22T09:00:00Z or 2026-11-22T17:00:00+08:00 (the '+' as %2B)",
            )
        })
    }
}

/// An ISO 8601 duration in microseconds. Years and months have no fixed length and are refused.
pub fn duration(text: &str) -> Option<i64> {
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let rest = rest.strip_prefix('P')?;
    let (date, time) = rest.split_once('T').unwrap_or((rest, ""));
    let mut total = 0f64;
    let mut any = false;
    for (part, units) in
        [(date, [('W', 604_800.0), ('D', 86_400.0)].as_slice()), (time, &[('H', 3_600.0), ('M', 60.0), ('S', 1.0)])]
    {
        let mut number = String::new();
        let mut units = units.iter();
        for c in part.chars() {
            if c.is_ascii_digit() || c == '.' {
                number.push(c);
            } else {
                let (_, seconds) = units.find(|(unit, _)| *unit == c)?;
                total += number.parse::<f64>().ok()? * seconds;
                number.clear();
                any = true;
            }
        }
        if !number.is_empty() {
            return None;
        }
    }
    let micros = (total * 1e6).round();
    let micros = (any && micros < 4e18).then_some(micros as i64)?;
    Some(if negative { -micros } else { micros })
}
