//! Loading: the file's entries, then the overrides, each through the rule of its row.

use std::collections::HashMap;
use std::path::Path;

use super::problem::{ConfigError, ConfigErrors, ConfigWarning, Place};
use super::properties::{self, BrokenEscape};
use super::rule::Refusal;
use super::table::{Row, Settings};
use super::unimplemented;

/// A setting from outside the file, which wins over the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Override<'a> {
    /// A key, as in the file.
    pub(crate) key: &'a str,
    /// Its value, as in the file but without escapes.
    pub(crate) value: &'a str,
    /// What the user calls it: the flag or environment variable.
    pub(crate) origin: &'a str,
}

/// Settings that are right in themselves.
#[derive(Debug)]
pub(crate) struct Loaded<S> {
    /// The settings.
    pub(crate) settings: S,
    /// What is odd about how they were given.
    pub(crate) warnings: Vec<ConfigWarning>,
}

/// A key and value with the place to blame.
struct Given {
    place: Place,
    key: String,
    value: String,
}

pub(super) fn load<S: Settings>(
    file: Option<&Path>,
    overrides: &[Override<'_>],
) -> Result<Loaded<S>, ConfigErrors> {
    let rows = S::rows();
    let mut settings = S::default();
    let mut errors = Vec::new();
    let mut warnings = Vec::new();
    let mut given = Vec::new();
    if let Some(file) = file {
        given = without_repetitions(&rows, from_file(file, &mut errors), &mut warnings);
    }
    given.extend(overrides.iter().map(|Override { key, value, origin }| Given {
        place: Place::Origin((*origin).to_owned()),
        key: (*key).to_owned(),
        value: value.trim().to_owned(),
    }));
    for Given { place, key, value } in given {
        let Some(row) = rows.iter().find(|row| row.description.is(&key)) else {
            warnings.push(without_row(S::UNIMPLEMENTED, &rows, place, key));
            continue;
        };
        match (row.take)(&mut settings, &value) {
            Ok(None) => {}
            Ok(Some(note)) => warnings.push(ConfigWarning::Adjusted { place, key, value, note }),
            Err(Refusal::NotAllowed) => {
                let allowed = row.description.allowed.clone();
                errors.push(ConfigError::Value { place, key, value, allowed });
            }
            Err(Refusal::Because(reason)) => errors.push(ConfigError::Refused { place, key, value, reason }),
        }
    }
    match errors.is_empty() {
        true => Ok(Loaded { settings, warnings }),
        false => Err(ConfigErrors(errors)),
    }
}

fn from_file(file: &Path, errors: &mut Vec<ConfigError>) -> Vec<(usize, Given)> {
    let text = match properties::read(file) {
        Ok(text) => text,
        Err(error) => {
            errors.push(error);
            return Vec::new();
        }
    };
    let mut given = Vec::new();
    let place = |line| Place::Line { file: file.to_owned(), line };
    for entry in properties::entries(&text) {
        match entry {
            Ok(properties::Entry { line, key, value }) => {
                given.push((line, Given { place: place(line), key, value }));
            }
            Err(BrokenEscape { line }) => errors.push(ConfigError::Escape { place: place(line) }),
        }
    }
    given
}

/// Keeps the last entry of each key, whatever its spelling, and warns of the others.
fn without_repetitions<S: Settings>(
    rows: &[Row<S>],
    given: Vec<(usize, Given)>,
    warnings: &mut Vec<ConfigWarning>,
) -> Vec<Given> {
    let main_spelling = |key: &str| {
        rows.iter()
            .find(|row| row.description.is(key))
            .map_or(key.to_owned(), |row| row.description.key.to_owned())
    };
    let mut kept: Vec<Option<Given>> = Vec::new();
    let mut last: HashMap<String, (usize, usize)> = HashMap::new();
    for (line, entry) in given {
        if let Some((lost_line, index)) = last.insert(main_spelling(&entry.key), (line, kept.len())) {
            kept[index] = None;
            let (place, key) = (entry.place.clone(), entry.key.clone());
            warnings.push(ConfigWarning::Repeated { place, key, lost_line });
        }
        kept.push(Some(entry));
    }
    kept.into_iter().flatten().collect()
}

fn without_row<S: Settings>(
    groups: &[unimplemented::Group],
    rows: &[Row<S>],
    place: Place,
    key: String,
) -> ConfigWarning {
    if let Some(reason) = unimplemented::reason(groups, &key) {
        return ConfigWarning::NoEffect { place, key, reason };
    }
    let spellings = rows
        .iter()
        .flat_map(|row| [row.description.key].into_iter().chain(row.description.aliases.iter().copied()));
    let nearest = nearest(&key, spellings.chain(groups.iter().flat_map(unimplemented::Group::keys)));
    ConfigWarning::Unknown { place, key, nearest }
}

/// The candidate that a slip of the hand would turn into `key`, if there is one.
fn nearest(key: &str, candidates: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    // Bounds the work on a key from outside; no real key is longer than 50 letters.
    const KEY_BYTES_MAX: usize = 80;
    if key.len() > KEY_BYTES_MAX {
        return None;
    }
    let key = key.to_ascii_lowercase();
    // A fifth of the letters may differ: `namesrvAdr` is a slip, `port` for `listenPort` is a guess.
    let slips_max = (key.len() / 5).clamp(1, 3);
    candidates
        .map(|candidate| {
            (edit_distance(key.as_bytes(), candidate.to_ascii_lowercase().as_bytes()), candidate)
        })
        .filter(|(distance, _)| *distance <= slips_max)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// How many letters must be inserted, removed or replaced to make one text of the other.
fn edit_distance(left: &[u8], right: &[u8]) -> usize {
    // row[j] is the distance between the part of `left` read so far and the first j letters of `right`.
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, left_letter) in left.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right_letter) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(left_letter != right_letter);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[right.len()]
}
