//! The one HTTP client configuration of the program: rustls with an explicit provider and the system's roots, no cookies, bounded.

use std::time::Duration;

/// A client whose every request ends within `limit`.
pub fn new(limit: Duration) -> anyhow::Result<reqwest::Client> {
    Ok(reqwest::Client::builder()
        .timeout(limit)
        .connect_timeout(Duration::from_secs(5).min(limit))
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("lamppost/", env!("CARGO_PKG_VERSION")))
        .build()?)
}

/// Makes `ring` the process's provider: two are compiled in, so rustls would refuse to choose. To be called first in `main`.
pub fn install_crypto() {
    // Fails only when one is installed already, which is then ours.
    drop(rustls::crypto::ring::default_provider().install_default());
}
