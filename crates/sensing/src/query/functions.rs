//! The built-in functions of 18-088 table 23.

macro_rules! functions {
    ($($variant:ident $name:literal $min:literal..=$max:literal,)*) => {
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Function { $($variant,)* }
        impl Function {
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
            /// The fewest and the most arguments.
            pub const fn arity(self) -> (usize, usize) {
                match self { $(Self::$variant => ($min, $max),)* }
            }
        }
    };
}

functions! {
    SubstringOf "substringof" 2..=2,
    Contains "contains" 2..=2,
    EndsWith "endswith" 2..=2,
    StartsWith "startswith" 2..=2,
    Length "length" 1..=1,
    IndexOf "indexof" 2..=2,
    Substring "substring" 2..=3,
    ToLower "tolower" 1..=1,
    ToUpper "toupper" 1..=1,
    Trim "trim" 1..=1,
    Concat "concat" 2..=2,
    Year "year" 1..=1,
    Month "month" 1..=1,
    Day "day" 1..=1,
    Hour "hour" 1..=1,
    Minute "minute" 1..=1,
    Second "second" 1..=1,
    FractionalSeconds "fractionalseconds" 1..=1,
    Date "date" 1..=1,
    Time "time" 1..=1,
    TotalOffsetMinutes "totaloffsetminutes" 1..=1,
    Now "now" 0..=0,
    MinDateTime "mindatetime" 0..=0,
    MaxDateTime "maxdatetime" 0..=0,
    Round "round" 1..=1,
    Floor "floor" 1..=1,
    Ceiling "ceiling" 1..=1,
    GeoDistance "geo.distance" 2..=2,
    GeoLength "geo.length" 1..=1,
    GeoIntersects "geo.intersects" 2..=2,
    StEquals "st_equals" 2..=2,
    StDisjoint "st_disjoint" 2..=2,
    StTouches "st_touches" 2..=2,
    StWithin "st_within" 2..=2,
    StOverlaps "st_overlaps" 2..=2,
    StCrosses "st_crosses" 2..=2,
    StIntersects "st_intersects" 2..=2,
    StContains "st_contains" 2..=2,
    StRelate "st_relate" 3..=3,
}

impl Function {
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|f| f.name() == name)
    }
    /// Functions whose answer can only be true where the boxes of both geometries meet.
    pub const fn needs_contact(self) -> bool {
        matches!(
            self,
            Self::GeoIntersects
                | Self::StEquals
                | Self::StTouches
                | Self::StWithin
                | Self::StOverlaps
                | Self::StCrosses
                | Self::StIntersects
                | Self::StContains
        )
    }
}
