//! The coefficients of the polynomials: uniform over all 256 values, zero included, and none without randomness.
//! Faults 6 of `docs/track-record.md`. A dealer that never draws zero leaks the key (RUSTSEC-2024-0398).

mod common;

use std::process::Command;

use common::{inverse, keyring_id, mul, number};
use keymoot_keyring::{derive::RootKey, shamir, stage::stage};
use keymoot_types::Share;

/// Six and a half standard deviations above the mean of 255 degrees of freedom: uniform draws exceed it once in
/// about ten million runs. A dealer without zeros stands above 4,000 at a million draws.
const CHI_SQUARE_MAX: f64 = 402.0;

struct Counts([u64; 256]);

impl Counts {
    fn check(&self, drawn: u64) {
        let Self(counts) = self;
        assert_eq!(counts.iter().sum::<u64>(), drawn);
        assert!(counts.iter().all(|count| *count > 0), "a value never came, of 0 {} times", counts[0]);
        let expected = drawn as f64 / 256.0;
        let chi_square: f64 = counts.iter().map(|count| (*count as f64 - expected).powi(2) / expected).sum();
        println!("{drawn} coefficients, chi-square {chi_square:.1}, zero came {} times", counts[0]);
        assert!(chi_square < CHI_SQUARE_MAX, "chi-square {chi_square}");
        // Far too even is no randomness either.
        assert!(chi_square > 130.0, "chi-square {chi_square}");
    }
}

fn split(root: [u8; 32], threshold: u8, count: u8) -> Vec<Share> {
    shamir::split(&RootKey::from_bytes(Box::new(root)), keyring_id(), number(9), threshold, count).unwrap()
}

#[test]
fn fault_06_nineteen_million_coefficients_of_threshold_two_are_uniform() {
    for (root, splits) in [([0; 32], 65_536), ([0xa7; 32], 524_288)] {
        let mut counts = Counts([0; 256]);
        for _ in 0..splits {
            let shares = split(root, 2, 2);
            for (at, secret) in root.iter().enumerate() {
                // y(x) = secret + coefficient · x
                let coefficient = shares[0].y()[at] ^ secret;
                assert_eq!(shares[1].y()[at], secret ^ mul(2, coefficient));
                counts.0[usize::from(coefficient)] += 1;
            }
        }
        counts.check(splits * 32);
    }
}

#[test]
fn fault_06_every_coefficient_of_a_high_threshold_is_uniform() {
    const THRESHOLD: u8 = 32;
    const SPLITS: u64 = 30;
    let mut all = Counts([0; 256]);
    let mut highest = Counts([0; 256]);
    let products: Vec<Vec<u8>> = (0..=255).map(|a| (0..=255).map(|b| mul(a, b)).collect()).collect();
    for _ in 0..SPLITS {
        let shares = split([0x3c; 32], THRESHOLD, 255);
        // The 255 non-zero x are the powers of one element, so each coefficient is a sum over all of them:
        // a(k) = Σ y(x) · x^-k.
        let mut weights = vec![1u8; 255];
        for degree in 0..=THRESHOLD {
            for at in 0..32 {
                let coefficient = shares.iter().zip(&weights).fold(0, |sum, (share, weight)| {
                    sum ^ products[usize::from(*weight)][usize::from(share.y()[at])]
                });
                match degree {
                    0 => assert_eq!(coefficient, 0x3c),
                    THRESHOLD => assert_eq!(coefficient, 0, "the polynomial has a degree too many"),
                    _ => all.0[usize::from(coefficient)] += 1,
                }
                if degree == THRESHOLD - 1 {
                    highest.0[usize::from(coefficient)] += 1;
                }
            }
            for (weight, share) in weights.iter_mut().zip(&shares) {
                *weight = mul(*weight, inverse(share.x().get()));
            }
        }
    }
    all.check(SPLITS * 32 * u64::from(THRESHOLD - 1));
    // The one whose loss lowers the threshold: zero must come as often as anything else.
    assert_eq!(highest.0.iter().sum::<u64>(), SPLITS * 32);
    assert!(highest.0[0] < 30, "{}", highest.0[0]);
}

#[test]
fn fault_06_coefficients_of_one_key_byte_tell_nothing_of_the_next() {
    // Equal neighbours come once in 256: a dealer that uses one coefficient for two bytes shows at once.
    const SPLITS: usize = 4_096;
    let mut equal = 0;
    let mut last = [0; 32];
    for _ in 0..SPLITS {
        let y = *split([0; 32], 2, 2)[0].y();
        equal += y.windows(2).filter(|pair| pair[0] == pair[1]).count();
        equal += y.iter().zip(&last).filter(|(a, b)| a == b).count();
        last = y;
    }
    let expected = SPLITS as f64 * 63.0 / 256.0;
    assert!((equal as f64 - expected).abs() < 7.0 * expected.sqrt(), "{equal} of {expected:.0}");
}

const CHILD: &str = "KEYMOOT_TEST_STAGE_IN_CHILD";

/// What the child of the test below does; by itself it only shows that staging works.
#[test]
fn a_version_is_staged_where_there_is_randomness() {
    let holders: Vec<_> = (1..=24).map(|n| (format!("h{n}").parse().unwrap(), None)).collect();
    match stage(keyring_id(), number(12), 2, &holders) {
        Ok(staged) => {
            assert_eq!(staged.shares.len(), 24);
            println!("child: {} shares", staged.shares.len());
        }
        Err(error) if std::env::var_os(CHILD).is_some() => println!("child: {error:?}"),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn fault_06_when_the_random_source_fails_no_share_is_issued() {
    let child = |inject: &str| {
        let output = Command::new("strace")
            .args(["-f", "-qq", "-e", "trace=getrandom", "-e", inject])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "a_version_is_staged_where_there_is_randomness", "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (mut root_key_hit, mut coefficients_hit, mut not_hit) = (0, 0, 0);
    for fault in ["error=EIO", "error=EFAULT", "error=EINVAL", "error=ENOSYS", "error=EPERM", "retval=0"] {
        for call in 1..=6 {
            let (answer, trace) = child(&format!("inject=getrandom:{fault}:when={call}"));
            let injected: Vec<&str> = trace.lines().filter(|line| line.contains("(INJECTED)")).collect();
            // The root key is 32 bytes, the coefficients are 4 · 32; the other calls are the standard library's.
            let root_key = injected.iter().any(|line| line.contains(", 32, "));
            let coefficients = injected.iter().any(|line| line.contains(", 128, "));
            if root_key || coefficients {
                assert!(answer.contains("child: Random(RandomError)"), "{fault} at {call}: {answer}{trace}");
                assert!(!answer.contains("shares"), "{fault} at {call}: {answer}");
            } else if injected.is_empty() {
                assert!(answer.contains("child: 24 shares"), "{fault} at {call}: {answer}{trace}");
                not_hit += 1;
            }
            root_key_hit += u32::from(root_key);
            coefficients_hit += u32::from(coefficients);
        }
    }
    println!("root key stopped {root_key_hit} times, coefficients {coefficients_hit}, {not_hit} controls");
    assert!(root_key_hit >= 4 && coefficients_hit >= 6 && not_hit >= 6);
}
