//! Passwords: argon2id (RFC 9106) in a pool of its own, so that a flood of sign-ins waits for itself and not for the city.

use std::sync::Arc;

use argon2::{Algorithm, Argon2, Params, Version};
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD as BASE64};
use kernel::Problem;
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;

/// 19 MiB, two passes, one lane: the OWASP Password Storage recommendation.
const COST: (u32, u32, u32) = (19_456, 2, 1);
/// Hashes computed at once: 38 MiB at most.
const AT_ONCE: usize = 2;
/// Sign-ins that may wait for one of them.
const WAITING: usize = 64;
pub const SHORTEST: usize = 12;
const LONGEST: usize = 200;

/// Passwords of twelve characters and more that everybody tries first; and the words of this program.
const COMMON: &[&str] = &[
    "123456789012",
    "1234567890123",
    "12345678910",
    "password1234",
    "password12345",
    "passwordpassword",
    "qwertyuiop12",
    "qwertyuiop123",
    "1q2w3e4r5t6y",
    "1qaz2wsx3edc",
    "administrator",
    "adminadminadmin",
    "letmeinletmein",
    "iloveyou1234",
    "abcdefghijkl",
    "aaaaaaaaaaaa",
    "111111111111",
    "000000000000",
    "changemechangeme",
    "welcome12345",
    "lamppostlamppost",
    "lamppost1234",
    "hongkong1234",
    "hongkonghongkong",
];

#[derive(Clone)]
pub struct Passwords {
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    /// What an unknown account is compared with, so that it takes as long as a known one.
    nobody: Arc<str>,
}

/// Whether a new password may be used; the key of what to say otherwise.
pub fn acceptable(password: &str, account: &str) -> Result<(), &'static str> {
    let length = password.chars().count();
    if length < SHORTEST {
        return Err("operators.password-short");
    }
    if length > LONGEST {
        return Err("operators.password-long");
    }
    let lower = password.to_lowercase();
    let repeats = lower.chars().all(|c| lower.starts_with(c));
    if repeats || COMMON.contains(&lower.as_str()) || (!account.is_empty() && lower.contains(&account.to_lowercase())) {
        return Err("operators.password-common");
    }
    Ok(())
}

impl Passwords {
    pub fn new() -> Result<Self, Problem> {
        let nobody = hash(&hex::encode(rand::random::<[u8; 16]>()))?.into();
        Ok(Self {
            running: Arc::new(Semaphore::new(AT_ONCE)),
            waiting: Arc::new(Semaphore::new(AT_ONCE + WAITING)),
            nobody,
        })
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
        let busy = || Problem::unavailable("Too many people are signing in. Try again in a few seconds.", 5);
        let _waiting = self.waiting.clone().try_acquire_owned().map_err(|_| busy())?;
        let permit = self.running.clone().acquire_owned().await.map_err(|_| busy())?;
        let done = tokio::task::spawn_blocking(move || {
            let value = work();
            drop(permit);
            value
        });
        done.await.map_err(|_| Problem::internal())
    }

    pub async fn hash(&self, password: String) -> Result<String, Problem> {
        self.run(move || hash(&password)).await?
    }

    /// Whether `password` is the one behind `stored`; always false, after the same work, when there is none.
    pub async fn verify(&self, password: String, stored: Option<String>) -> Result<bool, Problem> {
        let nobody = self.nobody.clone();
        self.run(move || {
            let known = stored.is_some();
            let same = compare(&password, stored.as_deref().unwrap_or(&nobody));
            same && known
        })
        .await
    }
}

fn derive(password: &str, salt: &[u8], (memory, passes, lanes): (u32, u32, u32)) -> Option<[u8; 32]> {
    let params = Params::new(memory, passes, lanes, Some(32)).ok()?;
    let mut out = [0; 32];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(password.as_bytes(), salt, &mut out)
        .ok()?;
    Some(out)
}

/// `$argon2id$v=19$m=19456,t=2,p=1$<salt>$<hash>`, the PHC string form.
fn hash(password: &str) -> Result<String, Problem> {
    let salt: [u8; 16] = rand::random();
    let derived = derive(password, &salt, COST).ok_or_else(Problem::internal)?;
    let (m, t, p) = COST;
    Ok(format!("$argon2id$v=19$m={m},t={t},p={p}${}${}", BASE64.encode(salt), BASE64.encode(derived)))
}

fn compare(password: &str, stored: &str) -> bool {
    let parse = || {
        let mut parts = stored.strip_prefix("$argon2id$v=19$")?.split('$');
        let mut cost = parts.next()?.split(',').map(|c| c.split_once('=')?.1.parse::<u32>().ok());
        let cost = (cost.next()??, cost.next()??, cost.next()??);
        Some((cost, BASE64.decode(parts.next()?).ok()?, BASE64.decode(parts.next()?).ok()?))
    };
    let Some((cost, salt, expected)) = parse() else { return false };
    derive(password, &salt, cost).is_some_and(|derived| derived.as_slice().ct_eq(&expected).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_opens_its_own_hash_only() {
        let passwords = Passwords::new().unwrap();
        let stored = passwords.hash("correct horse battery".to_owned()).await.unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        let verify =
            |password: &str, stored: Option<&str>| passwords.verify(password.to_owned(), stored.map(str::to_owned));
        assert!(verify("correct horse battery", Some(&stored)).await.unwrap());
        assert!(!verify("correct horse batterz", Some(&stored)).await.unwrap());
        assert!(!verify("correct horse battery", None).await.unwrap());
        assert!(!verify("correct horse battery", Some("nonsense")).await.unwrap());
    }

    #[tokio::test]
    async fn a_flood_is_refused_not_queued_for_ever() {
        let passwords = Passwords::new().unwrap();
        let flood = (0..200).map(|_| passwords.run(|| std::thread::sleep(std::time::Duration::from_millis(20))));
        let answers = futures::future::join_all(flood).await;
        let refused = answers.iter().filter(|a| a.as_ref().is_err_and(|p| p.retry_after.is_some())).count();
        assert_eq!(refused, 200 - AT_ONCE - WAITING);
        assert!(passwords.run(|| true).await.unwrap(), "afterwards it works again");
    }

    #[test]
    fn easy_passwords_are_refused() {
        assert_eq!(acceptable("short", "chan"), Err("operators.password-short"));
        assert_eq!(acceptable("PasswordPassword", "chan"), Err("operators.password-common"));
        assert_eq!(acceptable("zzzzzzzzzzzzzzz", "chan"), Err("operators.password-common"));
        assert_eq!(acceptable("my name is chantaiman", "ChanTaiMan"), Err("operators.password-common"));
        assert_eq!(acceptable("雨後春筍雨後春筍雨後春筍啊", "chan"), Ok(()));
    }
}
