//! The rules for one file of code.

use super::Problem;

/// A file beyond this is two rooms.
const LINES_MAX: usize = 800;

/// Calls that are not left in committed code. Written apart, or this file would break the rule.
const LEFTOVER_CALLS: [&str; 3] =
    [concat!("dbg", "!("), concat!("todo", "!("), concat!("unimplemented", "!(")];

/// Marks for what was to be done before a commit.
const LEFTOVER_WORDS: [&str; 2] = [concat!("FIX", "ME"), concat!("XX", "X")];

/// Checks a file's text. `needs_header`: whether it is a module, which says at its top what it is for.
pub(super) fn check(text: &str, needs_header: bool) -> Vec<Problem> {
    let mut problems = Vec::new();
    if needs_header && !text.starts_with("//!") {
        let message =
            "no `//!` header: say at the top what this module is for, and what is not here".to_owned();
        problems.push(Problem { line: 1, message });
    }
    let count = text.lines().count();
    if count > LINES_MAX {
        let message = format!("{count} lines, at most {LINES_MAX} are allowed: split the room");
        problems.push(Problem { line: LINES_MAX + 1, message });
    }
    for (index, line) in text.lines().enumerate() {
        let calls = LEFTOVER_CALLS.iter().filter(|call| line.contains(**call));
        let words = LEFTOVER_WORDS.iter().filter(|word| has_word(line, word));
        problems.extend(calls.chain(words).map(|leftover| {
            let leftover = leftover.trim_end_matches('(');
            Problem { line: index + 1, message: format!("leftover `{leftover}`: finish it or take it out") }
        }));
    }
    problems
}

/// Whether `word` stands in `line` as a word of its own.
fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(start, _)| {
        let (before, after) = (&line[..start], &line[start + word.len()..]);
        !before.ends_with(is_part) && !after.starts_with(is_part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(text: &str, needs_header: bool) -> Vec<String> {
        let shown = |problem: Problem| format!("{}: {}", problem.line, problem.message);
        check(text, needs_header).into_iter().map(shown).collect()
    }

    #[test]
    fn a_module_has_a_header() {
        assert_eq!(messages("//! Words.\n\nfn f() {}\n", true), [""; 0]);
        assert_eq!(messages("// Words.\n", false), [""; 0]);
        for text in ["", "use a::b;\n", "// Words.\n", "\n//! Words.\n"] {
            assert!(messages(text, true)[0].starts_with("1: no `//!` header"), "{text:?}");
        }
    }

    #[test]
    fn a_file_has_a_bounded_length() {
        assert_eq!(messages(&"\n".repeat(LINES_MAX), false), [""; 0]);
        let long = messages(&"\n".repeat(LINES_MAX + 1), false);
        assert_eq!(long, ["801: 801 lines, at most 800 are allowed: split the room"]);
    }

    #[test]
    fn leftovers_are_reported_with_their_lines() {
        let calls = LEFTOVER_CALLS.map(|call| format!("let x = {call}y);\n")).concat();
        let lines: Vec<usize> = check(&calls, false).iter().map(|problem| problem.line).collect();
        assert_eq!(lines, [1, 2, 3]);
        let words = LEFTOVER_WORDS.map(|word| format!("// {word}: later\n")).concat();
        assert_eq!(check(&words, false).len(), 2);
        assert_eq!(messages("const TOPIC: &str = \"SCHEDULE_TOPIC_XXXX\"; // todo list\n", false), [""; 0]);
    }
}
