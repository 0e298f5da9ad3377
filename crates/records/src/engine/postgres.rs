//! PostgreSQL 12 or later, and what speaks its protocol.

use std::{collections::HashMap, time::Duration};

use ::postgres::{
    Client, Config, NoTls, SimpleQueryMessage, Statement,
    error::SqlState,
    fallible_iterator::FallibleIterator,
    types::{IsNull, ToSql, Type, private::BytesMut, to_sql_checked},
};

use super::{Begin, Failure, Fate, Visit};
use crate::{ColumnKind, Error, Param, Row, Term};

pub(crate) struct Connection {
    config: Config,
    /// `None` until the first use and after the connection was lost.
    client: Option<Client>,
    /// By text, then by the kinds of the parameters, because those are part of what the server prepares.
    statements: HashMap<String, Vec<(Vec<ColumnKind>, Statement)>>,
}

/// Settings that decide meaning, whatever the server's defaults are.
const SETTINGS: &str = "SET synchronous_commit = on; SET lock_timeout = '10s'; SET standard_conforming_strings = on;
    SET idle_in_transaction_session_timeout = '60s'; SET client_min_messages = warning; SET bytea_output = hex;";

impl Connection {
    pub fn new(url: &str) -> Result<Self, Error> {
        let mut config: Config = url.parse().map_err(|error: ::postgres::Error| {
            // The text of the URL holds a password, so it is never repeated.
            Error::Invalid(format!("the PostgreSQL address is not valid: {}", describe(&error)))
        })?;
        config.application_name("lamppost");
        config.connect_timeout(Duration::from_secs(2)).tcp_user_timeout(Duration::from_secs(10));
        Ok(Self { config, client: None, statements: HashMap::new() })
    }

    /// Reconnects when needed, so that a transaction always begins on a live connection.
    fn client(&mut self) -> Result<&mut Client, Failure> {
        if self.client.as_ref().is_none_or(Client::is_closed) {
            self.forget();
            let mut client = self
                .config
                .connect(NoTls)
                .map_err(|error| Failure { fate: Fate::Lost, error: Error::Unavailable(describe(&error)) })?;
            client.batch_execute(SETTINGS).map_err(failure)?;
            self.client = Some(client);
        }
        // Just set above; the error is what a closed connection would answer.
        self.client.as_mut().ok_or_else(lost)
    }

    fn live(&mut self) -> Result<&mut Client, Failure> {
        self.client.as_mut().ok_or_else(lost)
    }

    pub fn forget(&mut self) {
        self.client = None;
        self.statements.clear();
    }

    pub fn begin(&mut self, begin: Begin, term: Option<&Term>) -> Result<(), Failure> {
        let begin = match begin {
            Begin::Read => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
            Begin::Write => "BEGIN ISOLATION LEVEL SERIALIZABLE READ WRITE",
            Begin::Locked => "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE",
        };
        let Some(term) = term else { return self.ask_twice(begin).map(drop) };
        // In one message: a fence costs no round trip.
        let answers =
            self.ask_twice(&format!("{begin}; SELECT term FROM records_lease WHERE name = '{}'", term.name))?;
        let standing = answers.iter().find_map(|answer| match answer {
            SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
            _ => None,
        });
        if standing == Some(term.number) { Ok(()) } else { Err(Failure::statement(Error::Fenced)) }
    }

    fn ask_twice(&mut self, sql: &str) -> Result<Vec<SimpleQueryMessage>, Failure> {
        if let Ok(answers) = self.client()?.simple_query(sql) {
            return Ok(answers);
        }
        // The server may have closed an idle connection, or may have become a standby that another address replaces. Nothing
        // has happened yet, so a fresh connection is as good.
        self.forget();
        self.client()?
            .simple_query(sql)
            .map_err(|error| Failure { fate: Fate::Lost, error: Error::Unavailable(describe(&error)) })
    }

    pub fn commit(&mut self) -> Result<(), Failure> {
        self.live()?.batch_execute("COMMIT").map_err(failure)
    }

    pub fn rollback(&mut self) {
        let rolled_back = self.client.as_mut().is_some_and(|client| client.batch_execute("ROLLBACK").is_ok());
        if !rolled_back {
            self.forget();
        }
    }

    pub fn control(&mut self, sql: &'static str) -> Result<(), Failure> {
        self.live()?.batch_execute(sql).map_err(failure)
    }

    pub fn script(&mut self, sql: &str) -> Result<(), Failure> {
        // A migration may change what prepared statements return.
        self.statements.clear();
        self.live()?.batch_execute(sql).map_err(failure)
    }

    fn prepare(&mut self, sql: &str, params: &[Param<'_>]) -> Result<Statement, Failure> {
        let fits = |kinds: &[ColumnKind]| kinds.iter().copied().eq(params.iter().map(Param::kind));
        if let Some(known) = self.statements.get(sql)
            && let Some((_, statement)) = known.iter().find(|(kinds, _)| fits(kinds))
        {
            return Ok(statement.clone());
        }
        let kinds: Vec<ColumnKind> = params.iter().map(Param::kind).collect();
        let types: Vec<Type> = kinds.iter().copied().map(sql_type).collect();
        let statement = self.live()?.prepare_typed(sql, &types).map_err(failure)?;
        if statement.params().len() != params.len() {
            let (wants, has) = (statement.params().len(), params.len());
            return Err(Failure::statement(Error::Statement(format!("{wants} parameters wanted, {has} given"))));
        }
        if self.statements.len() >= crate::STATEMENTS {
            // Rare: the texts of a program are few. Starting over is simpler than tracking use.
            self.statements.clear();
        }
        self.statements.entry(sql.to_owned()).or_default().push((kinds, statement.clone()));
        Ok(statement)
    }

    pub fn execute(&mut self, sql: &str, params: &[Param<'_>]) -> Result<u64, Failure> {
        let statement = self.prepare(sql, params)?;
        let params: Vec<&(dyn ToSql + Sync)> = params.iter().map(|param| param as _).collect();
        let result = self.live()?.execute(&statement, &params);
        result.map_err(|error| self.stale(error))
    }

    pub fn for_each(&mut self, sql: &str, params: &[Param<'_>], visit: Visit<'_>) -> Result<(), Failure> {
        let statement = self.prepare(sql, params)?;
        let result = stream(self.live()?, &statement, params, visit);
        result.map_err(|stopped| match stopped {
            Stopped::Server(error) => self.stale(error),
            Stopped::Visitor(error) => Failure::statement(error),
        })
    }

    fn stale(&mut self, error: ::postgres::Error) -> Failure {
        let failure = failure(error);
        if failure.fate == Fate::Conflict {
            // "cached plan must not change result type" after another program's migration counts as a conflict too.
            self.statements.clear();
        }
        failure
    }
}

enum Stopped {
    Server(::postgres::Error),
    Visitor(Error),
}

fn stream(client: &mut Client, statement: &Statement, params: &[Param<'_>], visit: Visit<'_>) -> Result<(), Stopped> {
    let params = params.iter().map(|param| param as &(dyn ToSql + Sync));
    let mut rows = client.query_raw(statement, params).map_err(Stopped::Server)?;
    while let Some(row) = rows.next().map_err(Stopped::Server)? {
        if visit(&Row::postgres(&row)).map_err(Stopped::Visitor)?.is_break() {
            break;
        }
    }
    Ok(())
}

fn sql_type(kind: ColumnKind) -> Type {
    match kind {
        ColumnKind::Integer => Type::INT8,
        ColumnKind::Real => Type::FLOAT8,
        ColumnKind::Text => Type::TEXT,
        ColumnKind::Bytes => Type::BYTEA,
    }
}

impl ToSql for Param<'_> {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Param::Null(_) => Ok(IsNull::Yes),
            Param::Integer(value) => value.to_sql(ty, out),
            Param::Real(value) => value.to_sql(ty, out),
            Param::Text(value) => value.as_ref().to_sql(ty, out),
            Param::Bytes(value) => value.as_ref().to_sql(ty, out),
        }
    }
    fn accepts(ty: &Type) -> bool {
        [Type::INT8, Type::FLOAT8, Type::TEXT, Type::BYTEA].contains(ty)
    }
    to_sql_checked!();
}

fn lost() -> Failure {
    Failure { fate: Fate::Lost, error: Error::Unavailable("the connection is closed".to_owned()) }
}

/// The client's own text says "db error" and keeps the sentence in its source.
fn describe(error: &::postgres::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

pub(crate) fn failure(error: ::postgres::Error) -> Failure {
    let Some(database) = error.as_db_error() else {
        let text = describe(&error);
        // No answer from the server means no server, unless the client itself refused the statement.
        let mine = ["error serializing", "expected ", "error encoding", "error deserializing"];
        return if mine.iter().any(|start| text.starts_with(start)) {
            Failure::statement(Error::Statement(text))
        } else {
            Failure { fate: Fate::Lost, error: Error::Unavailable(text) }
        };
    };
    let text = database.message().to_owned();
    let code = database.code();
    let (fate, error) = match code.code() {
        "40001" | "40P01" | "55P03" => (Fate::Conflict, Error::Unavailable(text)),
        "0A000" if text.contains("cached plan") => (Fate::Conflict, Error::Unavailable(text)),
        "23505" => (Fate::Statement, Error::Unique(text)),
        "23503" | "23001" => (Fate::Statement, Error::Reference(text)),
        c if c.starts_with("23") || c.starts_with("22") => (Fate::Statement, Error::Check(text)),
        c if c.starts_with("08") || c.starts_with("57P") || *code == SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT => {
            (Fate::Lost, Error::Unavailable(text))
        }
        // Out of disk, memory or connections; a statement cancelled by the operator.
        c if c.starts_with("53") || c.starts_with("58") || c == "57014" => (Fate::Statement, Error::Unavailable(text)),
        c => (Fate::Statement, Error::Statement(format!("{text} (SQLSTATE {c})"))),
    };
    Failure { fate, error }
}
