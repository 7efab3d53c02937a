//! Keys that verify tokens, each with the algorithms that its type allows. Look here for the
//! allowed algorithms.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyOperations, PublicKeyUse,
};
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use serde::Deserialize;
use serde_json::Value;

use super::claims::Claims;
use crate::limits::{JWKS_KEYS_MAX, TOKEN_BYTES_MAX};
use crate::settings::Secret;

const HMAC: &[Algorithm] = &[Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
const RSA: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];
const EC: &[Algorithm] = &[Algorithm::ES256, Algorithm::ES384];
const ED: &[Algorithm] = &[Algorithm::EdDSA];

/// A key, and its algorithms. No `Debug`: it may be a secret.
#[derive(Clone)]
pub struct Key {
    id: Option<String>,
    decoding: DecodingKey,
    algorithms: Vec<Algorithm>,
}

/// Why a token is rejected before its claims are evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadToken {
    /// It is not a token: three parts, two of them JSON.
    Form,
    /// Its algorithm is not supported, or it requires an unknown extension.
    Algorithm,
    /// No key verifies it.
    Signature,
}

/// The relevant part of a token's header. It is not verified.
#[derive(Deserialize)]
struct Head {
    alg: String,
    kid: Option<String>,
    /// Extensions that must be supported to accept it; none are.
    crit: Option<Value>,
}

/// A parsed token.
pub struct Parts<'a> {
    algorithm: Algorithm,
    key_id: Option<String>,
    /// Header and claims as they were signed.
    signed: &'a [u8],
    claims: &'a str,
    signature: &'a str,
}

impl<'a> Parts<'a> {
    /// Parses a token (RFC 7515, compact).
    ///
    /// # Errors
    /// It is not a token, or its algorithm is not supported.
    pub fn read(token: &'a str) -> Result<Self, BadToken> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(BadToken::Form);
        }
        let mut parts = token.split('.');
        let (Some(head), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(BadToken::Form);
        };
        let signed = &token.as_bytes()[..head.len() + 1 + claims.len()];
        let head = URL_SAFE_NO_PAD.decode(head).map_err(|_| BadToken::Form)?;
        // An object, and not a list of values in the order of the fields, which serde would accept
        // too.
        let head: Claims = serde_json::from_slice(&head).map_err(|_| BadToken::Form)?;
        let head: Head = serde_json::from_value(Value::Object(head)).map_err(|_| BadToken::Form)?;
        let algorithm = algorithm(&head.alg).ok_or(BadToken::Algorithm)?;
        if head.crit.is_some() {
            return Err(BadToken::Algorithm);
        }
        Ok(Self { algorithm, key_id: head.kid, signed, claims, signature })
    }

    /// Whether one of the keys could have signed it.
    pub fn has_key_in(&self, keys: &[Key]) -> bool {
        keys.iter().any(|key| key.is_for(self))
    }

    /// The claims, if one of the keys signed them.
    ///
    /// # Errors
    /// None did, or the payload is not a set of claims.
    pub fn prove<'k>(&self, keys: impl IntoIterator<Item = &'k Key>) -> Result<Claims, BadToken> {
        let mut fitting = keys.into_iter().filter(|key| key.is_for(self));
        let is_proved = |key: &Key| {
            // An error means that the key cannot be used for it, or that the signature is not
            // base64.
            crypto::verify(self.signature, self.signed, &key.decoding, self.algorithm)
                .unwrap_or(false)
        };
        if !fitting.any(is_proved) {
            return Err(BadToken::Signature);
        }
        let claims = URL_SAFE_NO_PAD.decode(self.claims).map_err(|_| BadToken::Form)?;
        serde_json::from_slice(&claims).map_err(|_| BadToken::Form)
    }
}

/// The allowlist. `none` is not on it.
fn algorithm(name: &str) -> Option<Algorithm> {
    Some(match name {
        "HS256" => Algorithm::HS256,
        "HS384" => Algorithm::HS384,
        "HS512" => Algorithm::HS512,
        "RS256" => Algorithm::RS256,
        "RS384" => Algorithm::RS384,
        "RS512" => Algorithm::RS512,
        "PS256" => Algorithm::PS256,
        "PS384" => Algorithm::PS384,
        "PS512" => Algorithm::PS512,
        "ES256" => Algorithm::ES256,
        "ES384" => Algorithm::ES384,
        "EdDSA" => Algorithm::EdDSA,
        _ => return None,
    })
}

impl Key {
    fn is_for(&self, parts: &Parts<'_>) -> bool {
        let is_named = match (&self.id, &parts.key_id) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => true,
        };
        is_named && self.algorithms.contains(&parts.algorithm)
    }

    /// A shared secret.
    ///
    /// # Errors
    /// That it is empty.
    pub fn from_secret(secret: &Secret) -> anyhow::Result<Self> {
        let secret = secret.expose().as_bytes();
        if secret.is_empty() {
            bail!("the secret is empty: `openssl rand -hex 32` makes a good one");
        }
        Ok(Self { id: None, decoding: DecodingKey::from_secret(secret), algorithms: HMAC.to_vec() })
    }

    /// A public key in PEM. Its type determines the algorithms.
    ///
    /// # Errors
    /// It is not a public key.
    pub fn from_pem(pem: &[u8]) -> anyhow::Result<Self> {
        let text = String::from_utf8_lossy(pem);
        if text.contains("PRIVATE KEY") {
            bail!(
                "it holds a private key, which must stay with the issuer of the tokens: \
                 `openssl pkey -pubout` makes the public one"
            );
        }
        let found = [
            (DecodingKey::from_rsa_pem(pem), RSA),
            (DecodingKey::from_ec_pem(pem), EC),
            (DecodingKey::from_ed_pem(pem), ED),
        ];
        let found = found.into_iter().find_map(|(key, algorithms)| Some((key.ok()?, algorithms)));
        let (key, algorithms) =
            found.context("it is no public key of RSA, EC or Ed25519 in PEM")?;
        Ok(Self { id: None, decoding: key, algorithms: algorithms.to_vec() })
    }

    /// A key of a set; `None` if it does not verify signatures.
    fn from_jwk(jwk: &Jwk) -> Option<Self> {
        let common = &jwk.common;
        let is_for_signatures =
            common.public_key_use.as_ref().is_none_or(|it| *it == PublicKeyUse::Signature);
        // RFC 7517, 4.3: what a key is not for, it must not be used for.
        let verifies = |all: &Vec<KeyOperations>| all.contains(&KeyOperations::Verify);
        if !is_for_signatures || !common.key_operations.as_ref().is_none_or(verifies) {
            return None;
        }
        let algorithms = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => RSA,
            AlgorithmParameters::EllipticCurve(it) => match it.curve {
                EllipticCurve::P256 => &EC[..1],
                EllipticCurve::P384 => &EC[1..],
                _ => return None,
            },
            AlgorithmParameters::OctetKeyPair(it) if it.curve == EllipticCurve::Ed25519 => ED,
            // A secret does not belong in a set of public keys.
            _ => return None,
        };
        let only = jwk.common.key_algorithm.map(|it| it.to_string());
        let algorithms = algorithms.iter().copied();
        let algorithms: Vec<_> = algorithms
            .filter(|it| only.as_ref().is_none_or(|only| algorithm(only) == Some(*it)))
            .collect();
        let key = DecodingKey::from_jwk(jwk).ok().filter(|_| !algorithms.is_empty())?;
        Some(Self { id: jwk.common.key_id.clone(), decoding: key, algorithms })
    }

    /// The keys of a set (RFC 7517). Unknown keys are skipped, as the standard requires.
    ///
    /// # Errors
    /// It is not a key set, or it contains no usable key.
    pub fn from_jwks(text: &[u8]) -> anyhow::Result<Vec<Self>> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        let set: Set = serde_json::from_slice(text)
            .ok()
            .context("it is no JSON Web Key Set: {\"keys\": [...]}")?;
        let understood =
            set.keys.into_iter().filter_map(|key| serde_json::from_value::<Jwk>(key).ok());
        let set = JwkSet { keys: understood.take(JWKS_KEYS_MAX).collect() };
        let keys: Vec<Self> = set.keys.iter().filter_map(Self::from_jwk).collect();
        if keys.is_empty() {
            bail!("no key in it can be used: RSA, EC (P-256, P-384) or Ed25519 for signatures");
        }
        Ok(keys)
    }
}

/// The secret in a file, without a trailing line end.
pub(crate) fn read_secret(path: &Path) -> anyhow::Result<Secret> {
    let shown = path.display();
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read the secret in {shown}"))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(Secret::new(text.strip_suffix('\r').unwrap_or(text)))
}

/// The public key in a file.
pub(crate) fn read_public_key(path: &Path) -> anyhow::Result<Key> {
    let shown = path.display();
    let pem = fs::read(path).with_context(|| format!("cannot read the key in {shown}"))?;
    Key::from_pem(&pem).with_context(|| format!("the key in {shown} cannot be used"))
}

impl std::fmt::Display for BadToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Form => "it is no token: three parts with dots between them",
            Self::Algorithm => "its algorithm is not taken",
            Self::Signature => "no key proves its signature",
        })
    }
}
