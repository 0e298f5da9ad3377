//! Telling another program: one signed POST, as "Standard Webhooks" (standard-webhooks 1.0.0) describes it.
//!
//! Headers `webhook-id` (the same for every attempt, so the receiver can recognise a repetition), `webhook-timestamp` (seconds) and
//! `webhook-signature` (`v1,` and the base64 HMAC-SHA256 of `id.timestamp.body`). Any 2xx is an acceptance; 410 Gone ends the attempts; redirects
//! are not followed; the answer's body is not read.

use std::{fmt, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use http::StatusCode;
use kernel::Timestamp;
use records::JobFailure;
use sha2::Sha256;

use super::guard::{Allowed, Resolver, check_url};

/// A key of 24 to 64 bytes, written `whsec_` and base64.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// # Errors
    /// A sentence that says what would be right; never the secret.
    pub fn parse(text: &str) -> Result<Self, String> {
        let expected = "a secret is 'whsec_' and 24 to 64 bytes in base64".to_owned();
        let key = text.strip_prefix("whsec_").and_then(|b| STANDARD.decode(b).ok()).ok_or_else(|| expected.clone())?;
        if (24..=64).contains(&key.len()) { Ok(Self(key)) } else { Err(expected) }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// The value of `webhook-signature`.
pub fn sign(secret: &Secret, id: &str, timestamp: i64, body: &[u8]) -> String {
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&secret.0) else { return String::new() };
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[derive(Clone)]
pub struct Sender {
    client: reqwest::Client,
    allowed: Allowed,
}

impl Sender {
    /// # Errors
    /// When the platform offers no TLS roots.
    pub fn new(allowed: Allowed, timeout: Duration) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            .dns_resolver(Resolver::new(allowed.clone()))
            .redirect(reqwest::redirect::Policy::none())
            // A proxy from the environment would resolve names where the guard does not look.
            .no_proxy()
            .timeout(timeout)
            .connect_timeout(timeout.min(Duration::from_secs(5)))
            .pool_max_idle_per_host(1)
            .user_agent("Lamppost")
            .build()?;
        Ok(Self { client, allowed })
    }

    /// # Errors
    /// [`JobFailure::GiveUp`] when no further attempt can do better.
    pub async fn send(
        &self,
        url: &str,
        secret: &Secret,
        id: &str,
        now: Timestamp,
        body: Vec<u8>,
    ) -> Result<(), JobFailure> {
        let url = check_url(url, &self.allowed).map_err(JobFailure::GiveUp)?;
        let timestamp = now.as_micros().div_euclid(1_000_000);
        let request = self
            .client
            .post(url)
            .header("content-type", "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp.to_string())
            .header("webhook-signature", sign(secret, id, timestamp, &body))
            .body(body);
        // The text of a failure is shown to operators: it names what failed, not the address, which may hold a token.
        let response = request.send().await.map_err(|error| JobFailure::Retry(reason(&error.without_url())))?;
        match response.status() {
            status if status.is_success() => Ok(()),
            StatusCode::GONE => {
                Err(JobFailure::GiveUp("the receiver answered 410: it does not want this any more".to_owned()))
            }
            status => Err(JobFailure::Retry(format!("the receiver answered {}", status.as_u16()))),
        }
    }
}

fn reason(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source.filter(|_| text.len() < 400) {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's reference libraries.
    #[test]
    fn signs_as_the_specification_does() {
        let secret = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("valid");
        let signature = sign(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn secrets_have_a_form_and_are_not_shown() {
        for bad in ["", "abc", "whsec_", "whsec_YWJj", "whsec_!!"] {
            assert!(Secret::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(format!("{:?}", Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("valid")), "Secret");
    }
}
