//! The fuzz targets over their corpus and thousands of mutations of it, the same on every run.

#[path = "fuzz/targets.rs"]
mod targets;

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

use rarepixel::xbd::random::SplitMix64;

/// Of each file of the corpus.
const MUTATIONS: u64 = 1500;

#[test]
fn the_corpus_and_its_mutations() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    for (name, target) in targets::TARGETS {
        let mut files: Vec<_> = fs::read_dir(corpus.join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(!files.is_empty(), "{name} has no corpus");
        for path in files {
            let seed = fs::read(&path).unwrap();
            target(&seed);
            for number in 0..MUTATIONS {
                let mut bytes = seed.clone();
                mutate(&mut bytes, &mut SplitMix64::new(&[number]));
                // Half of the images get right checksums, so that their damage gets past the first check.
                if name == "png" && number % 2 == 0 {
                    repair(&mut bytes);
                }
                let found = catch_unwind(|| target(&bytes));
                assert!(
                    found.is_ok(),
                    "{}, mutation {number}: keep these bytes in the corpus: {bytes:?}",
                    path.display()
                );
            }
        }
    }
}

/// One to four changes: a bit, a byte, a part left out, said twice or cut off.
fn mutate(bytes: &mut Vec<u8>, random: &mut SplitMix64) {
    for _ in 0..1 + random.below(4) {
        if bytes.is_empty() {
            return;
        }
        let at = random.below(bytes.len());
        let end = (at + 1 + random.below(16)).min(bytes.len());
        match random.below(6) {
            0 | 1 => bytes[at] ^= 1 << random.below(8),
            2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff, b'-', b'9', b'"'][random.below(8)],
            3 => drop(bytes.drain(at..end)),
            4 => {
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            _ => bytes.truncate(at),
        }
    }
}

/// Sets the checksum of every chunk as far as the file can be followed.
fn repair(bytes: &mut [u8]) {
    let mut at = 8;
    while let Some(length) = bytes.get(at..at + 4) {
        let length = u32::from_be_bytes(length.try_into().unwrap()) as usize;
        let Some(checked) = bytes.get(at + 4..(at + 8).saturating_add(length)) else { return };
        let checksum = crc32fast::hash(checked).to_be_bytes();
        at += 8 + length;
        let Some(place) = bytes.get_mut(at..at + 4) else { return };
        place.copy_from_slice(&checksum);
        at += 4;
    }
}
