//! Money: whole minor units and an ISO 4217 currency. No floating point, no silent overflow, no mixed currencies.

use std::fmt;

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, PartialOrd, Ord)]
#[serde(rename_all = "UPPERCASE")]
pub enum Currency {
    Hkd,
    Cny,
    Usd,
    Eur,
    Jpy,
}

impl Currency {
    /// Digits after the decimal point (ISO 4217 exponent).
    pub const fn exponent(self) -> u32 {
        match self {
            Self::Jpy => 0,
            _ => 2,
        }
    }
    pub const fn code(self) -> &'static str {
        match self {
            Self::Hkd => "HKD",
            Self::Cny => "CNY",
            Self::Usd => "USD",
            Self::Eur => "EUR",
            Self::Jpy => "JPY",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Money {
    pub minor: i64,
    pub currency: Currency,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MoneyError {
    #[error("{0:?} and {1:?} cannot be added; convert one first")]
    Mixed(Currency, Currency),
    #[error("the amount is larger than the books can hold")]
    Overflow,
}

impl Money {
    pub const fn new(minor: i64, currency: Currency) -> Self {
        Self { minor, currency }
    }
    pub fn plus(self, other: Self) -> Result<Self, MoneyError> {
        if self.currency != other.currency {
            return Err(MoneyError::Mixed(self.currency, other.currency));
        }
        let minor = self.minor.checked_add(other.minor).ok_or(MoneyError::Overflow)?;
        Ok(Self { minor, currency: self.currency })
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exponent = self.currency.exponent() as usize;
        let unit = 10u64.pow(self.currency.exponent());
        let (sign, amount) = (if self.minor < 0 { "-" } else { "" }, self.minor.unsigned_abs());
        write!(f, "{} {sign}{}", self.currency.code(), amount / unit)?;
        if exponent > 0 { write!(f, ".{:0exponent$}", amount % unit) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_and_shows_exactly() {
        let fare = Money::new(1_205, Currency::Hkd);
        assert_eq!(fare.plus(Money::new(-2_210, Currency::Hkd)).map(|m| m.to_string()), Ok("HKD -10.05".to_owned()));
        assert_eq!(Money::new(500, Currency::Jpy).to_string(), "JPY 500");
        assert_eq!(fare.plus(Money::new(1, Currency::Usd)), Err(MoneyError::Mixed(Currency::Hkd, Currency::Usd)));
        assert_eq!(fare.plus(Money::new(i64::MAX, Currency::Hkd)), Err(MoneyError::Overflow));
    }
}
