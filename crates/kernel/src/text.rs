//! Text for people, in the three languages of the city.

use serde::{Deserialize, Serialize};

/// The languages of pages. The address segment is the lower-case BCP 47 tag with script: `/en`, `/zh-hant`, `/zh-hans`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Language {
    #[default]
    #[serde(rename = "en")]
    En,
    #[serde(rename = "zh-hant")]
    ZhHant,
    #[serde(rename = "zh-hans")]
    ZhHans,
}

impl Language {
    pub const ALL: [Self; 3] = [Self::En, Self::ZhHant, Self::ZhHans];

    pub const fn segment(self) -> &'static str {
        match self {
            Self::En => "en",
            Self::ZhHant => "zh-hant",
            Self::ZhHans => "zh-hans",
        }
    }
    /// The value of `lang=` (BCP 47).
    pub const fn tag(self) -> &'static str {
        match self {
            Self::En => "en-HK",
            Self::ZhHant => "zh-Hant-HK",
            Self::ZhHans => "zh-Hans-HK",
        }
    }
    /// The language's name in itself.
    pub const fn endonym(self) -> &'static str {
        match self {
            Self::En => "English",
            Self::ZhHant => "繁體",
            Self::ZhHans => "简体",
        }
    }
    pub fn from_segment(segment: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|l| l.segment() == segment)
    }
    /// The best of the three for an `Accept-Language` header (RFC 9110 section 12.5.4), English when nothing fits.
    pub fn negotiate(header: &str) -> Self {
        let mut best = (0.0f32, Self::En);
        for part in header.split(',').take(32) {
            let mut fields = part.trim().split(';');
            let tag = fields.next().unwrap_or("").trim().to_ascii_lowercase();
            let q = fields.find_map(|f| f.trim().strip_prefix("q=")?.parse::<f32>().ok()).unwrap_or(1.0);
            let language = match tag.as_str() {
                t if t.starts_with("en") => Self::En,
                t if t.starts_with("zh") && (t.contains("hans") || t.ends_with("-cn") || t.ends_with("-sg")) => {
                    Self::ZhHans
                }
                t if t.starts_with("zh") || t.starts_with("yue") => Self::ZhHant,
                _ => continue,
            };
            if q > best.0 {
                best = (q, language);
            }
        }
        best.1
    }
}

/// One text in three languages. English is required; a missing Chinese form falls back to the other script, then to English.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(from = "TextForm")]
pub struct Text {
    pub en: String,
    #[serde(rename = "zh-hant", skip_serializing_if = "Option::is_none")]
    pub zh_hant: Option<String>,
    #[serde(rename = "zh-hans", skip_serializing_if = "Option::is_none")]
    pub zh_hans: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TextForm {
    Plain(String),
    Full {
        en: String,
        #[serde(rename = "zh-hant")]
        zh_hant: Option<String>,
        #[serde(rename = "zh-hans")]
        zh_hans: Option<String>,
    },
}

impl From<TextForm> for Text {
    fn from(form: TextForm) -> Self {
        match form {
            TextForm::Plain(en) => Self { en, zh_hant: None, zh_hans: None },
            TextForm::Full { en, zh_hant, zh_hans } => Self { en, zh_hant, zh_hans },
        }
    }
}

impl Text {
    pub fn new(en: impl Into<String>, zh_hant: impl Into<String>, zh_hans: impl Into<String>) -> Self {
        Self { en: en.into(), zh_hant: Some(zh_hant.into()), zh_hans: Some(zh_hans.into()) }
    }
    pub fn plain(en: impl Into<String>) -> Self {
        Self { en: en.into(), zh_hant: None, zh_hans: None }
    }
    pub fn get(&self, language: Language) -> &str {
        let (first, second) = match language {
            Language::En => return &self.en,
            Language::ZhHant => (&self.zh_hant, &self.zh_hans),
            Language::ZhHans => (&self.zh_hans, &self.zh_hant),
        };
        first.as_deref().or(second.as_deref()).unwrap_or(&self.en)
    }
    pub fn is_complete(&self) -> bool {
        !self.en.is_empty() && self.zh_hant.is_some() && self.zh_hans.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negotiates_as_browsers_ask() {
        let check = |header, expect| assert_eq!(Language::negotiate(header), expect, "{header}");
        check("zh-HK,zh;q=0.9,en;q=0.8", Language::ZhHant);
        check("zh-CN,zh;q=0.9", Language::ZhHans);
        check("fr, en;q=0.5", Language::En);
        check("zh-Hans-HK", Language::ZhHans);
        check("", Language::En);
    }

    #[test]
    fn falls_back_across_scripts() {
        let text: Text = serde_json::from_str(r#"{"en":"Rain","zh-hant":"雨量"}"#).expect("valid");
        assert_eq!(text.get(Language::ZhHans), "雨量");
        assert_eq!(Text::plain("Rain").get(Language::ZhHant), "Rain");
        assert!(!text.is_complete());
    }
}
