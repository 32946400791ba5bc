//! The algorithms by which a token can be signed (RFC 7518 §3.1, RFC 8037 §3.1).

use std::fmt;

/// One of the algorithms that the gateway knows. Which of them it goes by, the configuration says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// HMAC with SHA-256 and a shared secret.
    Hs256,
    /// HMAC with SHA-384 and a shared secret.
    Hs384,
    /// HMAC with SHA-512 and a shared secret.
    Hs512,
    /// RSA (PKCS #1 v1.5) with SHA-256.
    Rs256,
    /// RSA-PSS with SHA-256.
    Ps256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// Every algorithm.
    pub const ALL: [Self; 7] =
        [Self::Hs256, Self::Hs384, Self::Hs512, Self::Rs256, Self::Ps256, Self::Es256, Self::EdDsa];

    /// The name in the `alg` of a token and in `auth.algorithms`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Hs384 => "HS384",
            Self::Hs512 => "HS512",
            Self::Rs256 => "RS256",
            Self::Ps256 => "PS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }

    /// The algorithm of this name. `none` is no algorithm.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    /// Bytes that a secret must have, at least (RFC 7518 §3.2); none if the algorithm goes by a
    /// public key.
    pub fn least_secret(self) -> Option<usize> {
        match self {
            Self::Hs256 => Some(32),
            Self::Hs384 => Some(48),
            Self::Hs512 => Some(64),
            Self::Rs256 | Self::Ps256 | Self::Es256 | Self::EdDsa => None,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_algorithm_is_known_by_its_exact_name_and_none_is_none() {
        for algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::of(algorithm.name()), Some(algorithm));
        }
        for wrong in ["none", "None", "", "hs256", "HS256 ", "ES384", "RS1", "dir"] {
            assert_eq!(Algorithm::of(wrong), None, "{wrong}");
        }
    }
}
