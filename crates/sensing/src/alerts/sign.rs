//! Enveloped XML signatures (W3C XML Signature 1.1), as CAP 1.2 section 3.3.4.1 asks for: ECDSA over P-256 with SHA-256, which is the
//! algorithm that XML Signature 1.1 makes every verifier have. Only signing is here, and only of what [`super::xml`] writes, which is canonical
//! already; so no canonicaliser is needed, and none is trusted with what others send.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use ring::{
    rand::SecureRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const DSIG: &str = "http://www.w3.org/2000/09/xmldsig#";
const C14N: &str = "http://www.w3.org/2001/10/xml-exc-c14n#";

/// The city's key for warnings.
pub struct Signer {
    key: EcdsaKeyPair,
    random: Box<dyn SecureRandom + Send + Sync>,
    id: String,
    /// `X509Data` (XML Signature 1.1 section 4.5.4) with the certificates that vouch for the key; empty without any.
    chain: String,
}

/// Certificates of one chain, and characters of each.
const CHAIN: usize = 8;
const CERTIFICATE: usize = 16 << 10;

impl Signer {
    /// A new key, as PKCS #8 (RFC 5208), to be kept where nobody else reads it.
    ///
    /// # Errors
    /// Those of the source of randomness.
    pub fn generate(random: &dyn SecureRandom) -> Result<Vec<u8>, String> {
        EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, random)
            .map(|key| key.as_ref().to_vec())
            .map_err(|_| "no randomness for a key".to_owned())
    }

    /// # Errors
    /// When `pkcs8` is no key on P-256.
    pub fn new(pkcs8: &[u8], random: Box<dyn SecureRandom + Send + Sync>) -> Result<Self, String> {
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, random.as_ref())
            .map_err(|e| format!("it holds no key on P-256: {e}"))?;
        let id = thumbprint(key.public_key().as_ref());
        Ok(Self { key, random, id, chain: String::new() })
    }

    /// With the certificates that vouch for the key, its own first, as PEM (RFC 7468). Whoever trusts their root need not ask the host who the
    /// key belongs to.
    ///
    /// # Errors
    /// When it holds no certificate, or the first is of another key: then every receiver would refuse every warning.
    pub fn vouched(mut self, pem: &str) -> Result<Self, String> {
        let mut certificates = Vec::new();
        let mut rest = pem;
        while let Some((_, after)) = rest.split_once("-----BEGIN CERTIFICATE-----") {
            let (body, after) = after.split_once("-----END CERTIFICATE-----").ok_or("a certificate has no end")?;
            let body: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
            if body.len() > CERTIFICATE || certificates.len() >= CHAIN {
                return Err(format!("at most {CHAIN} certificates of {CERTIFICATE} characters are expected"));
            }
            let der = STANDARD.decode(&body).map_err(|_| "a certificate is no base64".to_owned())?;
            certificates.push(der);
            rest = after;
        }
        let leaf = certificates.first().ok_or("it holds no certificate")?;
        // The subject's public key as it stands in a certificate: a BIT STRING of the uncompressed point (RFC 5480 section 2.2).
        let point = self.key.public_key().as_ref();
        let bits: Vec<u8> = [&[0x03, 0x42, 0x00][..], point].concat();
        if !leaf.windows(bits.len()).any(|window| window == bits) {
            return Err("its first certificate is of another key".to_owned());
        }
        let each =
            certificates.iter().map(|der| format!("<X509Certificate>{}</X509Certificate>", STANDARD.encode(der)));
        self.chain = format!("<X509Data>{}</X509Data>", each.collect::<String>());
        Ok(self)
    }

    /// The thumbprint of the key (RFC 7638), which names it in the JWKS and in signatures.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The public half as a JSON Web Key (RFC 7517).
    pub fn jwk(&self) -> Value {
        let (x, y) = coordinates(self.key.public_key().as_ref());
        json!({ "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.id, "x": x, "y": y })
    }

    /// The whole document: `body` is everything up to `end`, and the signature comes between.
    ///
    /// # Errors
    /// Those of the source of randomness.
    pub fn enveloped(&self, body: &str, end: &str) -> Result<String, String> {
        let digest = Sha256::new().chain_update(body).chain_update(end).finalize();
        let digest = STANDARD.encode(digest);
        let info = format!(
            "<SignedInfo xmlns=\"{DSIG}\"><CanonicalizationMethod Algorithm=\"{C14N}\"></CanonicalizationMethod>\
             <SignatureMethod Algorithm=\"http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha256\"></SignatureMethod>\
             <Reference URI=\"\"><Transforms><Transform Algorithm=\"{DSIG}enveloped-signature\"></Transform>\
             <Transform Algorithm=\"{C14N}\"></Transform></Transforms>\
             <DigestMethod Algorithm=\"http://www.w3.org/2001/04/xmlenc#sha256\"></DigestMethod>\
             <DigestValue>{digest}</DigestValue></Reference></SignedInfo>"
        );
        let signed = self.key.sign(self.random.as_ref(), info.as_bytes()).map_err(|_| "no randomness to sign with")?;
        let (value, point) = (STANDARD.encode(signed.as_ref()), STANDARD.encode(self.key.public_key().as_ref()));
        Ok(format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{body}<Signature xmlns=\"{DSIG}\">{info}\
             <SignatureValue>{value}</SignatureValue><KeyInfo><KeyName>{id}</KeyName><KeyValue>\
             <ECKeyValue xmlns=\"http://www.w3.org/2009/xmldsig11#\"><NamedCurve URI=\"urn:oid:1.2.840.10045.3.1.7\">\
             </NamedCurve><PublicKey>{point}</PublicKey></ECKeyValue></KeyValue>{chain}</KeyInfo></Signature>{end}",
            id = self.id,
            chain = self.chain,
        ))
    }
}

/// `x` and `y` of an uncompressed point (SEC 1 section 2.3.3), as a JWK writes them.
fn coordinates(point: &[u8]) -> (String, String) {
    let half = |at: usize| URL_SAFE_NO_PAD.encode(point.get(at..at + 32).unwrap_or_default());
    (half(1), half(33))
}

fn thumbprint(point: &[u8]) -> String {
    let (x, y) = coordinates(point);
    // The members in this order and without blanks: RFC 7638 section 3.
    let canonical = format!("{{\"crv\":\"P-256\",\"kty\":\"EC\",\"x\":\"{x}\",\"y\":\"{y}\"}}");
    URL_SAFE_NO_PAD.encode(Sha256::digest(canonical))
}

#[cfg(test)]
mod tests {
    use ring::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey},
    };

    use super::*;

    fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
        text.split_once(from).and_then(|(_, rest)| rest.split_once(to)).expect(from).0
    }

    #[test]
    fn what_is_signed_is_what_stands_there() {
        let pkcs8 = Signer::generate(&SystemRandom::new()).expect("a key");
        let signer = Signer::new(&pkcs8, Box::new(SystemRandom::new())).expect("reads its own");
        let whole = signer.enveloped("<a xmlns=\"urn:x\"><b>1</b>", "</a>").expect("signed");
        let signature = format!("<Signature {}</Signature>", between(&whole, "<Signature ", "</Signature>"));
        let without = whole.replace(&signature, "");
        let without = without.split_once('\n').expect("a declaration").1;
        assert_eq!(without, "<a xmlns=\"urn:x\"><b>1</b></a>");
        assert_eq!(between(&whole, "<DigestValue>", "<"), STANDARD.encode(Sha256::digest(without)));
        let info = format!("<SignedInfo {}</SignedInfo>", between(&whole, "<SignedInfo ", "</SignedInfo>"));
        let value = STANDARD.decode(between(&whole, "<SignatureValue>", "<")).expect("base64");
        let point = STANDARD.decode(between(&whole, "<PublicKey>", "<")).expect("base64");
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point);
        key.verify(info.as_bytes(), &value).expect("verifies");
        assert!(key.verify(info.replace("sha256", "sha512").as_bytes(), &value).is_err());
        assert_eq!(signer.jwk()["kid"], between(&whole, "<KeyName>", "<"));
    }

    #[test]
    fn certificates_stand_beside_the_key_that_they_are_of() {
        let pkcs8 = Signer::generate(&SystemRandom::new()).expect("a key");
        let signer = || Signer::new(&pkcs8, Box::new(SystemRandom::new())).expect("reads its own");
        let pair = |der: &[u8]| {
            let der = rustls::pki_types::PrivatePkcs8KeyDer::from(der.to_vec());
            rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ECDSA_P256_SHA256).expect("a pair")
        };
        let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).expect("parameters");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let root_key = rcgen::KeyPair::generate().expect("a key");
        let root = params.self_signed(&root_key).expect("a root");
        let issuer = rcgen::Issuer::from_params(&params, &root_key);
        let own = rcgen::CertificateParams::new(vec!["warnings.example.hk".to_owned()]).expect("parameters");
        let own = own.signed_by(&pair(&pkcs8), &issuer).expect("signed");
        let chain = format!("{}{}", own.pem(), root.pem());
        let whole =
            signer().vouched(&chain).expect("vouched").enveloped("<a xmlns=\"urn:x\">", "</a>").expect("signed");
        let first = STANDARD.decode(between(&whole, "<X509Certificate>", "<")).expect("base64");
        assert_eq!(first, own.der().as_ref());
        assert_eq!(whole.matches("<X509Certificate>").count(), 2);
        assert!(!signer().enveloped("<a>", "</a>").expect("signed").contains("X509"), "nobody vouches");
        for (bad, why) in [
            (root.pem(), "another key"),
            (String::new(), "no certificate"),
            ("-----BEGIN CERTIFICATE-----\nAA".to_owned(), "no end"),
            ("-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----".to_owned(), "base64"),
        ] {
            let error = signer().vouched(&bad).err().expect(why);
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        assert!(Signer::new(b"no key", Box::new(SystemRandom::new())).is_err());
    }
}
