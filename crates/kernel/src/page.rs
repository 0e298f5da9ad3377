//! How much one answer may hold. Every list in the program is paged, and every page is bounded.

/// Bounds that a door puts on what it accepts and returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entities on a page when the client does not say.
    pub page_default: u32,
    /// The most entities on a page, whatever the client asks.
    pub page_max: u32,
    /// Bytes of a request body.
    pub body_bytes: usize,
    /// Levels of nesting in JSON, filters and expansions.
    pub depth: u32,
}

impl Limits {
    pub const DEFAULT: Self = Self { page_default: 100, page_max: 10_000, body_bytes: 32 << 20, depth: 32 };
}

/// A page size that has been checked against [`Limits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageSize(u32);

impl PageSize {
    /// `None` asks for the default; more than the maximum is quietly lowered to it, as OData 4.01 section 11.2.6.3 allows a
    /// server to do, because the answer then carries a next link.
    pub fn clamp(asked: Option<u32>, limits: &Limits) -> Self {
        Self(asked.unwrap_or(limits.page_default).min(limits.page_max))
    }
    pub fn get(self) -> usize {
        self.0 as usize
    }
}
