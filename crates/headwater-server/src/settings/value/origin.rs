//! Origins of pages: scheme, host and port. Look here for which are accepted.

use std::str::FromStr;

/// The origin of a page, as browsers write it in `Origin`; or any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Every page, without its cookies.
    Any,
    /// Pages of this origin.
    One(String),
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let Some((scheme, host)) = text.split_once("://") else {
            return Err(
                "it is no origin like https://app.example or http://localhost:3000".to_owned()
            );
        };
        if host.is_empty() || host.contains(['/', '?', '#', '@', '*', ' ']) {
            return Err(format!(
                "an origin is a scheme, a host and, if it is not the usual one, a port: write \
                 {scheme}://HOST or {scheme}://HOST:PORT, without a path"
            ));
        }
        Ok(Self::One(text.to_ascii_lowercase()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_checked() {
        assert_eq!("*".parse(), Ok(Origin::Any));
        assert_eq!("https://App.example".parse(), Ok(Origin::One("https://app.example".into())));
        for wrong in ["app.example", "https://", "https://a/", "https://*.a", "https://u@a"] {
            assert!(wrong.parse::<Origin>().is_err(), "{wrong}");
        }
    }
}
