//! X25519 (RFC 7748 §5): the Diffie-Hellman of the handshake, three times for each side.
//!
//! The Montgomery ladder of the specification is serial by nature. With AVX2 the same product is computed faster on the
//! Edwards form of the curve, whose multiplication curve25519-dalek has in vectors: 33 µs against 52 µs here, both in
//! constant time with regard to the secret. Which way is taken depends on the processor and the public key alone, and
//! both give the same bytes.

use curve25519_dalek::montgomery::MontgomeryPoint;
use zeroize::Zeroizing;

use super::noise::DH_BYTES;

/// The shared secret of a secret key and a public one. `None` if it is all zero, which the other side can force with a
/// point of small order (RFC 7748 §6.1).
pub(super) fn x25519(
    secret: &[u8; DH_BYTES],
    public: &[u8; DH_BYTES],
) -> Option<Zeroizing<[u8; DH_BYTES]>> {
    let public = MontgomeryPoint(*public);
    let shared = if has_vectors() {
        by_edwards(secret, public)
    } else {
        public.mul_clamped(*secret)
    };
    let shared = Zeroizing::new(shared.to_bytes());
    // Whether it is zero is known to the other side already.
    (*shared != [0; DH_BYTES]).then_some(shared)
}

/// The public half of a secret key.
pub(super) fn public_of(secret: &[u8; DH_BYTES]) -> [u8; DH_BYTES] {
    MontgomeryPoint::mul_base_clamped(*secret).to_bytes()
}

/// Multiplies on the Edwards curve. The points of the twist, which honest keys never are, have no Edwards form and go
/// the way of the ladder. The sign is free to choose: a point and its negative have the same u.
fn by_edwards(secret: &[u8; DH_BYTES], public: MontgomeryPoint) -> MontgomeryPoint {
    match public.to_edwards(0) {
        Some(point) => point.mul_clamped(*secret).to_montgomery(),
        None => public.mul_clamped(*secret),
    }
}

fn has_vectors() -> bool {
    #[cfg(target_arch = "x86_64")]
    let has = std::arch::is_x86_feature_detected!("avx2");
    #[cfg(not(target_arch = "x86_64"))]
    let has = false;
    has
}

#[cfg(test)]
mod tests {
    use super::super::tests::{SMALL_ORDER, hex, unhex};
    use super::*;
    use ring::digest;

    fn array(text: &str) -> [u8; DH_BYTES] {
        unhex(text).try_into().unwrap()
    }

    #[test]
    fn vectors_of_rfc_7748_pass() {
        // §5.2.
        for (secret, public, shared) in [
            (
                "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
                "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
                "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
            ),
            (
                "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
                "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
                "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
            ),
        ] {
            let found = x25519(&array(secret), &array(public)).unwrap();
            assert_eq!(hex(&*found), shared);
        }
        let mut base_point = [0; DH_BYTES];
        base_point[0] = 9;
        let product = x25519(&[7; DH_BYTES], &base_point).unwrap();
        assert_eq!(*product, public_of(&[7; DH_BYTES]));
    }

    #[test]
    fn both_ways_give_the_same_for_every_public_key() {
        let mut on_the_curve = 0;
        for number in 0..200_u32 {
            let bytes = |of: &[u8]| -> [u8; DH_BYTES] {
                let text = [of, &number.to_le_bytes()].concat();
                digest::digest(&digest::SHA256, &text)
                    .as_ref()
                    .try_into()
                    .unwrap()
            };
            // Half of all strings are points of the twist; some have the top bit, which is to be ignored.
            let (secret, public) = (bytes(b"secret"), MontgomeryPoint(bytes(b"public")));
            on_the_curve += u32::from(public.to_edwards(0).is_some());
            assert_eq!(
                by_edwards(&secret, public).to_bytes(),
                public.mul_clamped(secret).to_bytes()
            );
        }
        assert!((50..150).contains(&on_the_curve), "{on_the_curve}");
        // Points of small order, and numbers that are not below the prime.
        for text in SMALL_ORDER {
            let public = MontgomeryPoint(array(text));
            let shared = by_edwards(&[7; DH_BYTES], public).to_bytes();
            assert_eq!(shared, [0; DH_BYTES], "{text}");
            assert_eq!(shared, public.mul_clamped([7; DH_BYTES]).to_bytes());
            assert!(x25519(&[7; DH_BYTES], public.as_bytes()).is_none());
        }
        for text in [
            "f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "f6ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        ] {
            let public = MontgomeryPoint(array(text));
            assert_eq!(
                by_edwards(&[7; DH_BYTES], public).to_bytes(),
                public.mul_clamped([7; DH_BYTES]).to_bytes(),
                "{text}"
            );
        }
    }
}
