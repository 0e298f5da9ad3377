//! Every seed of a target and a few hundred mutations of each, in the time of a test. Not a search: it keeps what was found from coming back, and
//! finds what is broken on the surface before a fuzzer is started.

use std::path::Path;

/// Splitmix64: the same inputs in every run of one `seed`.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { usize::try_from(self.next() % n as u64).unwrap_or(0) }
    }
    fn range(&mut self, n: usize) -> std::ops::Range<usize> {
        let from = self.below(n);
        let most = self.below(32) + 1;
        from..(from + most).min(n)
    }
}

const INTERESTING: [&[u8]; 16] = [
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"(",
    b")",
    b"[[[[[[[[",
    b"\"",
    b"'",
    b"$",
    b"%",
    b"-1",
    b"1e999",
    b"99999999999999999999",
];

fn mutated(seeds: &[Vec<u8>], at: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes = seeds[at].clone();
    for _ in 0..=random.below(4) {
        let n = bytes.len();
        let place = random.below(n + 1);
        match random.below(7) {
            0 if n > 0 => bytes[place.min(n - 1)] ^= 1 << random.below(8),
            1 if n > 0 => bytes[place.min(n - 1)] = random.next().to_le_bytes()[0],
            2 => drop(bytes.drain(random.range(n))),
            3 => {
                let copy = bytes[random.range(n)].to_vec();
                drop(bytes.splice(place..place, copy));
            }
            4 => drop(bytes.splice(place..place, INTERESTING[random.below(INTERESTING.len())].iter().copied())),
            5 => {
                let other = &seeds[random.below(seeds.len())];
                let tail = other[random.below(other.len() + 1)..].to_vec();
                bytes.truncate(place);
                bytes.extend(tail);
            }
            _ => bytes.truncate(place),
        }
    }
    bytes
}

/// Runs a target. A panic names the seed, the round and the input.
pub fn over(folder: &Path, rounds: usize, seed: u64, run: impl Fn(&[u8]) + std::panic::RefUnwindSafe) {
    let mut files: Vec<_> = std::fs::read_dir(folder).expect("seeds").map(|e| e.expect("an entry").path()).collect();
    files.sort();
    let seeds: Vec<Vec<u8>> = files.iter().map(|f| std::fs::read(f).expect("a seed")).collect();
    assert!(seeds.len() >= 3, "{} has no seeds", folder.display());
    let mut random = Random(seed);
    for (at, file) in files.iter().enumerate() {
        for round in 0..=rounds {
            let input = if round == 0 { seeds[at].clone() } else { mutated(&seeds, at, &mut random) };
            if std::panic::catch_unwind(|| run(&input)).is_err() {
                panic!("{}, round {round} of seed {seed}: {:?}", file.display(), String::from_utf8_lossy(&input));
            }
        }
    }
}
