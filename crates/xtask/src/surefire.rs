//! Reading the reports that Maven's test runner (surefire) writes: one XML file for each test class.
//!
//! Not an XML parser: it knows tags, attributes, comments and CDATA, which is all that these reports have.

use std::path::Path;

use anyhow::{Context, Result, bail};

/// What became of some tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// Tests that were to run.
    pub(crate) tests: usize,
    /// Tests that did not run.
    pub(crate) skipped: usize,
    /// One for each test that failed, however often it was tried.
    pub(crate) failures: Vec<Failure>,
    /// One for each test that failed at first and passed when it was run again: what it said the first time.
    pub(crate) reruns: Vec<Failure>,
}

/// A test that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Class and method.
    pub(crate) test: String,
    /// What the test said.
    pub(crate) message: String,
}

impl Report {
    /// The sum of all reports in a directory; of none, if the directory does not exist.
    pub(crate) fn read(directory: &Path) -> Result<Report> {
        let mut sum = Report::default();
        let Ok(entries) = std::fs::read_dir(directory) else { return Ok(sum) };
        let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        files.sort();
        for file in files {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with("TEST-") && name.ends_with(".xml") {
                let xml = std::fs::read_to_string(&file)
                    .with_context(|| format!("cannot read {}", file.display()))?;
                sum.add(Report::parse(&xml).with_context(|| format!("in {}", file.display()))?);
            }
        }
        Ok(sum)
    }

    /// Counts the tests that are there: the numbers in the head leave out those that passed on a rerun.
    fn parse(xml: &str) -> Result<Report> {
        let mut report = Report::default();
        let mut test = String::new();
        let (mut suites, mut counted) = (0, 0);
        for tag in tags(xml) {
            let failure = || {
                let message = tag.attribute("message").or_else(|| tag.attribute("type")).unwrap_or_default();
                Failure { test: test.clone(), message }
            };
            match tag.name {
                "testsuite" => {
                    suites += 1;
                    let tests = tag.attribute("tests").context("no attribute tests")?;
                    counted +=
                        tests.parse::<usize>().with_context(|| format!("attribute tests is {tests}"))?;
                }
                "testcase" => {
                    let class = tag.attribute("classname").unwrap_or_default();
                    let class = class.rsplit('.').next().unwrap_or_default();
                    test = format!("{class}.{}", tag.attribute("name").unwrap_or_default());
                    report.tests += 1;
                }
                "skipped" => report.skipped += 1,
                "failure" | "error" => report.failures.push(failure()),
                // One for each attempt.
                "flakyFailure" | "flakyError"
                    if report.reruns.last().is_none_or(|rerun| rerun.test != test) =>
                {
                    report.reruns.push(failure());
                }
                _ => {}
            }
        }
        if suites == 0 {
            bail!("no test suite in the report");
        }
        if report.tests < counted {
            bail!("{} of {counted} tests are in the report", report.tests);
        }
        Ok(report)
    }

    fn add(&mut self, other: Report) {
        self.tests += other.tests;
        self.skipped += other.skipped;
        self.failures.extend(other.failures);
        self.reruns.extend(other.reruns);
    }
}

/// An opening tag.
struct Tag<'a> {
    name: &'a str,
    attributes: &'a str,
}

/// All opening tags; what a test printed lies in CDATA and is none of them.
fn tags(xml: &str) -> impl Iterator<Item = Tag<'_>> {
    let mut rest = xml;
    std::iter::from_fn(move || {
        loop {
            rest = &rest[rest.find('<')?..];
            let skipped = [("<![CDATA[", "]]>"), ("<!--", "-->"), ("<?", "?>"), ("</", ">")];
            if let Some((start, end)) = skipped.iter().find(|(start, _)| rest.starts_with(start)) {
                rest = &rest[start.len()..];
                rest = &rest[rest.find(end)? + end.len()..];
                continue;
            }
            let mut quoted = false;
            let end = rest.find(|c: char| {
                quoted ^= c == '"';
                c == '>' && !quoted
            })?;
            let inside = rest[1..end].trim_end_matches('/');
            rest = &rest[end + 1..];
            let (name, attributes) = inside.split_once(char::is_whitespace).unwrap_or((inside, ""));
            return Some(Tag { name, attributes });
        }
    })
}

impl Tag<'_> {
    fn attribute(&self, wanted: &str) -> Option<String> {
        let mut rest = self.attributes;
        loop {
            let (name, after) = rest.split_once("=\"")?;
            let (value, after) = after.split_once('"')?;
            if name.trim() == wanted {
                return Some(unescape(value));
            }
            rest = after;
        }
    }
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('&') {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let Some((entity, after)) = rest[1..].split_once(';') else { break };
        match entity {
            "lt" => out.push('<'),
            "gt" => out.push('>'),
            "amp" => out.push('&'),
            "quot" => out.push('"'),
            "apos" => out.push('\''),
            number => {
                let number = number.strip_prefix('#').and_then(|number| number.parse().ok());
                out.push(number.and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
        }
        rest = after;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What surefire 3.2.5 wrote of nine tests that were run again twice, without its properties and deeper stacks.
    fn recorded() -> Report {
        Report::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/surefire")).unwrap()
    }

    fn failure(test: &str, message: &str) -> Failure {
        Failure { test: test.to_owned(), message: message.to_owned() }
    }

    #[test]
    fn a_test_that_failed_in_every_run_failed_once() {
        let expected =
            [failure("FlakyTest.never", "always <wrong>\ntwice"), failure("SetUpTest.", "no server")];
        assert_eq!(recorded().failures, expected);
    }

    /// The heads of these reports say two tests each.
    #[test]
    fn a_test_that_passed_on_a_rerun_counts_and_is_named_with_what_it_said_first() {
        let expected = [
            failure("FlakyTest.broken", "java.lang.IllegalStateException"),
            failure("FlakyTest.second", "tries ==> expected: <2> but was: <1>"),
            failure("FlakyTest.third", "try 1"),
        ];
        let report = recorded();
        assert_eq!(report.reruns, expected);
        assert_eq!((report.tests, report.skipped), (9, 1));
    }

    #[test]
    fn what_is_no_report_is_an_error() {
        for xml in [
            "",
            "<html></html>",
            "<testsuite tests=\"1\"",
            "<testsuite tests=\"many\"/>",
            "<testsuite/>",
            "<testsuite tests=\"1\"></testsuite>",
        ] {
            assert!(Report::parse(xml).is_err(), "{xml}");
        }
    }
}
