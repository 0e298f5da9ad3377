//! The frame around every page: who asks, in which language, where in the site, and what the header and footer show.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    fmt,
    sync::{Arc, OnceLock},
};

use axum::extract::{FromRequestParts, OriginalUri};
use http::request::Parts;
use jiff::tz::TimeZone;
use kernel::{Action, Caller, Clock, Language, Policy, Principal, Resource, Text, Timestamp};

use crate::{
    Markup,
    assets::Assets,
    csrf, format,
    language::{Catalogue, Count, Message},
    query::Query,
};

/// What is the same on every page of a city. Built once by the program.
pub struct Site {
    /// The city's name in the header, from the pack.
    pub city: Text,
    pub zone: TimeZone,
    /// How the zone is called where an exact time is shown: "Hong Kong time".
    pub zone_name: Text,
    /// The header, in order. Only what exists is listed: there are no dead links.
    pub nav: Vec<NavItem>,
    /// Where the count of open alerts in the header leads, below the language: `/alarms`. `None` hides it.
    pub alerts_path: Option<String>,
    /// Where "Sign in" leads, below the language. `None` hides it.
    pub sign_in_path: Option<String>,
    /// Where a signed-in person's name leads.
    pub account_path: Option<String>,
    /// Status, accessibility, contact.
    pub footer: Vec<NavItem>,
    pub catalogue: Catalogue,
    pub assets: Assets,
    pub clock: Arc<dyn Clock>,
    pub csrf: csrf::Key,
    /// Says for whom a link with [`NavItem::needs`] is; without it such links are nobody's.
    pub policy: Option<Arc<dyn Policy>>,
    /// What somebody who did something is called; see [`Page::who`].
    pub names: Option<Names>,
}

/// The name behind a caller's label (`person:…`, `key:…`), for a reader who may know it.
pub type Names = Arc<dyn Fn(&Caller, &str) -> Option<String> + Send + Sync>;

impl Site {
    /// A site with nothing in its header yet, in UTC; the program and tests fill in what they have.
    pub fn new(city: Text, catalogue: Catalogue, assets: Assets, clock: Arc<dyn Clock>) -> Self {
        Self {
            city,
            zone: TimeZone::UTC,
            zone_name: Text::plain("UTC"),
            nav: Vec::new(),
            alerts_path: None,
            sign_in_path: None,
            account_path: None,
            footer: Vec::new(),
            catalogue,
            assets,
            clock,
            csrf: csrf::Key::random(),
            policy: None,
            names: None,
        }
    }
}

/// One link of the header or footer.
#[derive(Clone, Debug)]
pub struct NavItem {
    /// Names the section, so that a page can mark it as current: `live`, `data`, `services`, `money`, `map`.
    pub section: &'static str,
    /// Key of its text. `ui` has `nav.live`, `nav.data`, `nav.services`, `nav.money`, `nav.map`, `footer.status`,
    /// `footer.accessibility` and `footer.contact`. lang-keys: nav.* footer.*
    pub key: &'static str,
    /// Below the language (`/live`), or a full address (`mailto:`, `https://`).
    pub path: String,
    /// Of use only to who may do this to such a thing of the own department; `None` is for everybody.
    pub needs: Option<(Action, &'static str)>,
}

/// Which session a CSRF token belongs to. The program's session layer puts it into the request's extensions.
#[derive(Clone)]
pub struct SessionKey(pub Arc<str>);

/// How many alerts are open for this caller. The program's layer puts it into the request's extensions.
#[derive(Clone, Copy, Debug)]
pub struct AlertCount(pub u64);

/// The one-time value that lets a script of ours run (CSP level 3, section 6.7.2). Made by [`crate::shell`].
#[derive(Clone, Debug)]
pub struct Nonce(pub Arc<str>);

/// Where the nonce of a request is, once a page has asked for it: what is no page needs none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fresh(pub Arc<OnceLock<Nonce>>);

/// A step above the page in the breadcrumb.
#[derive(Clone, Debug)]
pub struct Crumb {
    pub label: String,
    pub href: String,
}

/// One page being answered. A handler takes it as an argument, names it, and puts it into its template as `page`.
#[derive(Clone)]
pub struct Page {
    pub site: Arc<Site>,
    pub language: Language,
    pub caller: Caller,
    /// The address below the language, with its leading slash: `/things/12`.
    pub path: String,
    pub query: Query,
    pub nonce: Nonce,
    /// For the hidden field of every form: `{{ page.csrf_field() }}`.
    pub csrf_token: String,
    pub alerts: Option<u64>,
    /// The `h1`, and the first part of the window's title.
    pub heading: String,
    pub description: String,
    pub section: &'static str,
    pub crumbs: Vec<Crumb>,
    /// The officer's desk: 14 px and 40 px rows.
    pub dense: bool,
    /// Uses the whole width of the window (maps, wall displays).
    pub wide: bool,
    islands: BTreeSet<&'static str>,
    /// Asked for with GET.
    reading: bool,
}

impl Page {
    /// A page outside of a request: tests, letters, galleries.
    pub fn new(site: Arc<Site>, language: Language, path: &str, query: &str, caller: Caller) -> Self {
        Self {
            site,
            language,
            caller,
            path: path.to_owned(),
            query: Query::parse(query),
            nonce: Nonce(Arc::from("")),
            csrf_token: String::new(),
            alerts: None,
            heading: String::new(),
            description: String::new(),
            section: "",
            crumbs: Vec::new(),
            dense: false,
            wide: false,
            islands: BTreeSet::new(),
            reading: true,
        }
    }

    /// The `h1`: what the page is for, in the page's language.
    #[must_use]
    pub fn titled(mut self, heading: impl fmt::Display) -> Self {
        self.heading = heading.to_string();
        self
    }
    /// [`Page::titled`] with the text of a key.
    #[must_use]
    pub fn titled_t(self, key: &str) -> Self {
        let heading = self.t(key).to_owned();
        self.titled(heading)
    }
    /// [`Page::under`] with the text of a key.
    #[must_use]
    pub fn under_t(self, key: &str, path: &str) -> Self {
        let label = self.t(key).to_owned();
        self.under(label, path)
    }
    /// One sentence for search engines and link previews.
    #[must_use]
    pub fn described(mut self, description: impl fmt::Display) -> Self {
        self.description = description.to_string();
        self
    }
    /// Marks the header's link with this [`NavItem::section`].
    #[must_use]
    pub fn in_section(mut self, section: &'static str) -> Self {
        self.section = section;
        self
    }
    /// Adds a step to the breadcrumb, outermost first; `path` is below the language.
    #[must_use]
    pub fn under(mut self, label: impl fmt::Display, path: &str) -> Self {
        let href = self.href(path);
        self.crumbs.push(Crumb { label: label.to_string(), href });
        self
    }
    #[must_use]
    pub fn dense(mut self) -> Self {
        self.dense = true;
        self
    }
    #[must_use]
    pub fn wide(mut self) -> Self {
        self.wide = true;
        self
    }
    /// Loads an island (`map`, `chart`, `live`) when its files were built.
    #[must_use]
    pub fn with_island(mut self, name: &'static str) -> Self {
        self.islands.insert(name);
        self
    }

    /// The text for `key` in the page's language.
    pub fn t<'a>(&'a self, key: &'a str) -> &'a str {
        self.site.catalogue.t(self.language, key)
    }
    /// A text with placeholders: `page.msg("alarm.open").n(3).with("where", name)`.
    pub fn msg<'a>(&'a self, key: &'a str) -> Message<'a> {
        self.site.catalogue.msg(self.language, key)
    }
    /// Whoever did something, from a caller's label: the name where the reader may know it, else what they are.
    pub fn who(&self, label: &str) -> String {
        let known = if label == self.caller.label() {
            match &self.caller.principal {
                kernel::Principal::Person { name, .. } => Some(name.to_string()),
                _ => None,
            }
        } else {
            self.site.names.as_ref().and_then(|names| names(&self.caller, label))
        };
        known.unwrap_or_else(|| match label.split_once(':') {
            Some(("person", _)) => self.t("who.person").to_owned(),
            Some(("key", id)) => self.msg("who.program").with("id", id).to_string(),
            Some(("team", key)) => key.to_owned(),
            Some(("system", _)) => self.t("who.system").to_owned(),
            _ => label.to_owned(),
        })
    }
    /// The right form for a count, without other placeholders.
    pub fn count(&self, key: &str, n: impl Count) -> String {
        self.msg(key).n(n).to_string()
    }
    /// Picks the page's language out of a text of the pack.
    pub fn text<'a>(&self, text: &'a Text) -> &'a str {
        text.get(self.language)
    }

    /// An address below the language: `/things/12` becomes `/en/things/12`. Full addresses stay as they are.
    pub fn href(&self, path: &str) -> String {
        localized(self.language, path)
    }
    /// This page again with one parameter of the query set, or removed when `value` is empty; paging starts anew.
    pub fn here_with(&self, name: &str, value: &str) -> String {
        let query = self.query.clone().without("page").without("after").with(name, value);
        self.address(self.language, &query)
    }
    pub fn here(&self) -> String {
        self.address(self.language, &self.query)
    }
    pub(crate) fn address(&self, language: Language, query: &Query) -> String {
        format!("{}{}", localized(language, &self.path), query.suffix())
    }

    pub fn now(&self) -> Timestamp {
        self.site.clock.now()
    }
    /// `5 minutes ago`, with the exact time on hover and in print.
    pub fn ago(&self, at: &Timestamp) -> Markup {
        let relative = format::relative(&self.site.catalogue, self.language, *at, self.now(), &self.site.zone);
        self.time_element(*at, &relative)
    }
    /// `2026-11-22 17:05`, for columns; the exact time on hover.
    pub fn at(&self, at: &Timestamp) -> Markup {
        self.time_element(*at, &format::compact(*at, &self.site.zone))
    }
    /// The exact time, with the zone named.
    pub fn exact(&self, at: &Timestamp) -> String {
        format::exact(self.language, *at, &self.site.zone, self.site.zone_name.get(self.language))
    }
    fn time_element(&self, at: Timestamp, shown: &str) -> Markup {
        let mut out = Markup::default();
        out.raw("<time datetime=\"").text(at).raw("\" title=\"").text(self.exact(&at)).raw("\">");
        out.text(shown).raw("</time>");
        out
    }
    pub fn number(&self, value: &f64, decimals: u8) -> String {
        format::number(*value, decimals)
    }
    pub fn quantity(&self, value: f64, unit: &str, decimals: u8) -> String {
        format::quantity(&self.site.catalogue, self.language, value, unit, decimals)
    }

    /// The hidden field that [`csrf::Key::verify`] expects in every form that changes something.
    pub fn csrf_field(&self) -> Markup {
        let mut out = Markup::default();
        out.raw("<input type=\"hidden\" name=\"").raw(csrf::FIELD).raw("\" value=\"").text(&self.csrf_token).raw("\">");
        out
    }

    // ---- what the base template asks ---------------------------------------------------------------

    pub fn zone(&self) -> &str {
        self.site.zone.iana_name().unwrap_or("UTC")
    }
    pub fn city(&self) -> &str {
        self.site.city.get(self.language)
    }
    /// The links of the header that are of use to this caller.
    pub fn nav(&self) -> Vec<&NavItem> {
        let useful = |item: &&NavItem| {
            let Some((action, kind)) = item.needs else { return true };
            let resource = Resource { kind, id: "", tenant: self.caller.tenant.as_ref(), public: false };
            self.caller.tenant.is_some()
                && self.site.policy.as_ref().is_some_and(|policy| policy.allows(&self.caller, action, &resource))
        };
        self.site.nav.iter().filter(useful).collect()
    }
    pub fn is_current(&self, item: &NavItem) -> bool {
        item.section == self.section
    }
    /// The caller's name when signed in.
    pub fn caller_name(&self) -> Option<&str> {
        match &self.caller.principal {
            Principal::Person { name, .. } => Some(name),
            _ => None,
        }
    }
    /// The same page in each language, the query kept: for the switch and for `hreflang`.
    pub fn languages(&self) -> Vec<LanguageLink> {
        Language::ALL
            .into_iter()
            .map(|language| LanguageLink {
                tag: language.tag(),
                name: language.endonym(),
                href: self.address(language, &self.query),
                current: language == self.language,
            })
            .collect()
    }
    /// Where the alerts in the header lead and how many are open.
    pub fn alerts_link(&self) -> Option<(String, u64)> {
        Some((self.href(self.site.alerts_path.as_deref()?), self.alerts?))
    }
    pub fn account_href(&self) -> Option<String> {
        self.site.account_path.as_deref().map(|path| self.href(path))
    }
    /// Where somebody who is not signed in is sent to come back here afterwards.
    pub fn sign_in_and_back(&self) -> Option<String> {
        if !self.reading {
            // Where a form is sent to is no page to come back to.
            return self.sign_in_href();
        }
        Some(format!("{}?next={}", self.sign_in_href()?, crate::encode(&self.here())))
    }
    pub fn sign_in_href(&self) -> Option<String> {
        self.site.sign_in_path.as_deref().map(|path| self.href(path))
    }
    pub fn asset<'a>(&'a self, name: &'a str) -> &'a str {
        self.site.assets.url(name)
    }
    pub fn island_scripts(&self) -> Vec<&str> {
        self.islands.iter().filter_map(|name| self.site.assets.island(name)).map(|i| i.script.as_str()).collect()
    }
    pub fn island_styles(&self) -> Vec<&str> {
        self.islands.iter().filter_map(|name| self.site.assets.island(name)?.style.as_deref()).collect()
    }
    /// The page wants an island whose files were not built: the page says that it shows the plain form instead.
    pub fn lacks_island(&self) -> bool {
        self.islands.iter().any(|name| self.site.assets.island(name).is_none())
    }
}

pub struct LanguageLink {
    pub tag: &'static str,
    pub name: &'static str,
    pub href: String,
    pub current: bool,
}

fn localized(language: Language, path: &str) -> String {
    if path.starts_with('/') && !path.starts_with("//") {
        let path = if path == "/" { "" } else { path };
        format!("/{}{path}", language.segment())
    } else {
        path.to_owned()
    }
}

/// The language of an address and what follows it; `None` where the address names no language.
pub(crate) fn split_language(path: &str) -> Option<(Language, &str)> {
    let rest = path.strip_prefix('/')?;
    let (segment, below) = rest.find('/').map_or((rest, "/"), |i| rest.split_at(i));
    Some((Language::from_segment(segment)?, below))
}

impl<S: Sync> FromRequestParts<S> for Page {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::from_parts(parts))
    }
}

impl Page {
    pub(crate) fn from_parts(parts: &Parts) -> Self {
        let site = parts.extensions.get::<Arc<Site>>();
        // A missing shell is a mistake in composition that the first request of any test shows.
        let site = site.expect("ui::install wraps every router that serves pages").clone();
        let uri = parts.extensions.get::<OriginalUri>().map_or(&parts.uri, |u| &u.0);
        let (language, path) = split_language(uri.path()).unwrap_or_else(|| {
            let accepted = parts.headers.get(http::header::ACCEPT_LANGUAGE).and_then(|v| v.to_str().ok());
            (Language::negotiate(accepted.unwrap_or("")), "/")
        });
        let caller = parts.extensions.get::<Caller>().cloned().unwrap_or_else(Caller::anonymous);
        let mut page = Self::new(site.clone(), language, path, uri.query().unwrap_or(""), caller);
        if let Some(fresh) = parts.extensions.get::<Fresh>() {
            page.nonce = fresh.0.get_or_init(Nonce::new).clone();
        }
        if let Some(session) = parts.extensions.get::<SessionKey>() {
            page.csrf_token = site.csrf.token(&session.0);
        }
        page.reading = matches!(parts.method, http::Method::GET | http::Method::HEAD);
        page.alerts = parts.extensions.get::<AlertCount>().map(|a| a.0);
        page
    }
}
