//! The validity period of a certificate, from its DER. Look here for the few lines of X.509 (RFC
//! 5280, 4.1) that this needs; rustls decides whether a certificate is valid.

const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0]`, which holds the version.
const VERSION: u8 = 0xa0;

/// In seconds of Unix time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) not_before: i64,
    pub(super) not_after: i64,
}

impl Validity {
    /// Of a certificate in DER; `None` if it cannot be read.
    pub(super) fn of(certificate: &[u8]) -> Option<Self> {
        let (tbs, _) = content_of(certificate, SEQUENCE)?;
        let (mut rest, _) = content_of(tbs, SEQUENCE)?;
        if rest.first() == Some(&VERSION) {
            rest = element(rest)?.rest;
        }
        // Serial number, algorithm, issuer.
        for _ in 0..3 {
            rest = element(rest)?.rest;
        }
        let (validity, _) = content_of(rest, SEQUENCE)?;
        let not_before = element(validity)?;
        let not_after = element(not_before.rest)?;
        Some(Self {
            not_before: unix_time(not_before.tag, not_before.content)?,
            not_after: unix_time(not_after.tag, not_after.content)?,
        })
    }
}

struct Element<'a> {
    tag: u8,
    content: &'a [u8],
    rest: &'a [u8],
}

fn content_of(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let element = element(bytes)?;
    (element.tag == tag).then_some((element.content, element.rest))
}

/// The first element: tag, length, content.
fn element(bytes: &[u8]) -> Option<Element<'_>> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first & 0x80 != 0 {
        let digits = rest.get(..usize::from(first & 0x7f)).filter(|digits| digits.len() <= 4)?;
        length = digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit));
        rest = &rest[digits.len()..];
    }
    let (content, rest) = rest.split_at_checked(length)?;
    Some(Element { tag, content, rest })
}

/// `YYMMDDHHMMSSZ`, or with four digits for the year.
fn unix_time(tag: u8, text: &[u8]) -> Option<i64> {
    let year_digits = match tag {
        UTC_TIME => 2,
        GENERALIZED_TIME => 4,
        _ => return None,
    };
    let (year, rest) = text.strip_suffix(b"Z")?.split_at_checked(year_digits)?;
    if rest.len() != 10 {
        return None;
    }
    let year = match number(year)? {
        // Years of two digits: 1950 to 2049.
        short @ 0..50 if tag == UTC_TIME => 2000 + short,
        short if tag == UTC_TIME => 1900 + short,
        long => long,
    };
    let mut parts = rest.chunks(2).map(number);
    let mut part = || parts.next()?;
    let (month, day, hour, minute, second) = (part()?, part()?, part()?, part()?, part()?);
    let is_date = (1..=12).contains(&month) && (1..=31).contains(&day);
    let is_time = hour < 24 && minute < 60 && second <= 60;
    let seconds = (hour * 60 + minute) * 60 + second;
    (is_date && is_time).then(|| days_from_civil(year, month, day) * 86_400 + seconds)
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |number, digit| {
        digit.is_ascii_digit().then(|| number * 10 + i64::from(digit - b'0'))
    })
}

/// Days since 1970-01-01 in the Gregorian calendar. Years begin in March here, so that the leap day
/// is the last one.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    // 719,468 days lie between 0000-03-01 and 1970-01-01.
    365 * year + leap_days + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_of_both_forms() {
        #[track_caller]
        fn check(tag: u8, text: &str, expected: Option<i64>) {
            assert_eq!(unix_time(tag, text.as_bytes()), expected, "{text}");
        }
        check(UTC_TIME, "700101000000Z", Some(0));
        check(UTC_TIME, "491231235959Z", Some(2_524_607_999));
        check(UTC_TIME, "500101000000Z", Some(-631_152_000));
        check(UTC_TIME, "240229120000Z", Some(1_709_208_000));
        check(GENERALIZED_TIME, "20500101000000Z", Some(2_524_608_000));
        check(GENERALIZED_TIME, "99991231235959Z", Some(253_402_300_799));
        for text in ["", "Z", "700101000000", "7001010000Z", "701301000000Z", "70010100000xZ"] {
            check(UTC_TIME, text, None);
        }
        check(0x02, "700101000000Z", None);
    }

    #[test]
    fn the_validity_of_a_certificate() {
        let not_after = |der: &[u8]| Validity::of(der).map(|validity| validity.not_after);
        let mut parameters =
            rcgen::CertificateParams::new(["localhost".to_owned()]).expect("a name");
        let key = rcgen::KeyPair::generate().expect("a key");
        parameters.not_before = rcgen::date_time_ymd(2030, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(2031, 2, 3);
        let certificate = parameters.self_signed(&key).expect("a certificate");
        let validity = Validity { not_before: 1_893_456_000, not_after: 1_927_843_200 };
        assert_eq!(Validity::of(certificate.der()), Some(validity));
        for end in 0..certificate.der().len() / 2 {
            assert_eq!(not_after(&certificate.der()[..end]), None);
        }
        parameters.not_after = rcgen::date_time_ymd(2051, 1, 1);
        let certificate = parameters.self_signed(&key).expect("a certificate");
        assert_eq!(not_after(certificate.der()), Some(2_556_144_000));
    }

    proptest! {
        #[test]
        fn any_bytes_are_accepted(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Validity::of(&bytes);
        }
    }
}
