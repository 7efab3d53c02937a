//! Any token, and any claims with a valid signature: rejected, or granted within the settings.
//! Never a panic.

#![no_main]

use headwater_server::access::Identity;
use headwater_server::access::claims::{Claims, Expected};
use headwater_server::access::keys::{Key, Parts};
use headwater_server::settings::Secret;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let key =
        Key::from_secret(&Secret::new("a-secret-that-the-fuzzer-does-not-find")).expect("a key");
    if let Ok(parts) = Parts::read(text) {
        assert!(parts.prove([&key]).is_err(), "the signature cannot be valid");
    }
    let _ = Key::from_pem(text.as_bytes());
    let _ = Key::from_jwks(text.as_bytes());
    let Ok(claims) = serde_json::from_str::<Claims>(text) else { return };
    let templates = || vec!["user:{sub}:*".parse().expect("a template")];
    let expected = Expected { subscribe: templates(), publish: templates(), ..Expected::default() };
    let Ok(identity) = Identity::read(&claims, &expected, 1e9) else { return };
    assert!(!claims.contains_key("aud"), "the token is for another audience");
    assert!(!claims.get("exp").is_some_and(|exp| exp.as_f64().is_none_or(|exp| exp <= 1e9)));
    if !claims.contains_key("headwater") {
        assert!(identity.subscribe.len() <= 1 && !identity.admin);
    }
});
