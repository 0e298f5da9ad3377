//! Pages: one layout, one set of components, three languages, one stylesheet. Every room that a person looks at uses this one and nothing else.
//!
//! # How a room writes a page
//!
//! 1. `askama.toml` in the room: `[general]`, `dirs = ["templates", "../ui/templates"]`, `whitespace = "minimize"`.
//! 2. Its words in `lang/{en,zh-hant,zh-hans}.toml`, embedded as a [`Texts`] that the program merges into the
//!    [`Catalogue`]. `cargo xtask check` finds what is missing, unused or mismatched.
//! 3. A handler that takes [`Page`], names it, fills components, and answers [`Html`]; errors are [`kernel::Problem`] and become
//!    a page in the reader's language by themselves.
//!
//! ```no_run
//! # mod room {
//! use ui::{Html, Page, Table, Column, Cell};
//!
//! #[derive(askama::Template)]
//! # #[template(ext = "html", source = "{{ page.heading }}{{ devices.html(page) }}")]
//! # /* in a room:
//! #[template(path = "devices.html")] // {% extends "base.html" %}{% block main %}{{ devices.html(page) }}{% endblock %}
//! # */
//! struct Devices { page: Page, devices: Table }
//!
//! async fn devices(page: Page) -> Result<Html<impl askama::Template>, kernel::Problem> {
//!     let page = page.in_section("live").under_t("nav.live", "/live").titled_t("device.heading");
//!     let devices = Table::new(page.t("device.caption"))
//!         .column(Column::text("name", page.t("device.name")).sortable())
//!         .column(Column::number("battery", page.t("device.battery")))
//!         .rows([vec![Cell::link(page.href("/devices/7"), "HEPA 7"), Cell::quantity(83.0, 0, "%")]])
//!         .empty(page.t("device.none"));
//!     Ok(Html(Devices { page, devices }))
//! }
//! # }
//! ```
//!
//! In a template: `{{ page.t("key") }}`, `{{ page.msg("key").n(count).with("name", name) }}`, `{{ page.href("/things") }}`,
//! `{{ page.ago(at) }}`, `{{ page.csrf_field() }}` in every form that posts, `{{ part.html(page) }}` for a component.
//!
//! # Invariants
//!
//! - Nothing that came from outside is written unescaped: [`Markup::raw`] takes only text of the program itself.
//! - A page works without scripts. Islands (`map`, `chart`, `live`) take over elements that already say everything.
//! - No colour, size or font outside of the tokens at the head of `assets/lamppost.css`; no `style=` anywhere (the
//!   Content Security Policy refuses it); nothing is loaded from another host.
//! - A state is a shape and a word, never a colour alone.

mod assets;
mod components;
pub mod csrf;
pub mod format;
pub mod language;
mod markup;
mod page;
mod query;
mod shell;

pub use assets::{Assets, Error as AssetsError, Island, assets_router};
pub use components::{
    Act, Badge, Cell, Choice, Column, Download, ErrorSummary, Field, FieldKind, Filter, FilterChoice, Filters,
    HeatStrip, Legend, LineChart, LiveNumber, MiniMap, Notice, Pager, Quality, Row, Series, Sparkline, State, Table,
    Tone, Trend, island, map_labels, project,
};
pub use language::{Catalogue, Count, Error, Message, Texts};
pub use markup::Markup;
pub use page::{AlertCount, Crumb, LanguageLink, NavItem, Nonce, Page, SessionKey, Site};
pub use query::{Query, decode, encode};
pub use shell::{Html, install, shell, to_language};

/// The texts of this room.
pub const TEXTS: Texts = Texts {
    room: "ui",
    en: include_str!("../lang/en.toml"),
    zh_hant: include_str!("../lang/zh-hant.toml"),
    zh_hans: include_str!("../lang/zh-hans.toml"),
};
