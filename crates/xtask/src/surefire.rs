//! Reading the reports that Maven's test runner (surefire) writes: one XML file for each test class.
//!
//! Not an XML parser: it knows tags, attributes, comments and CDATA, which is all that these reports have.

use std::path::Path;

use anyhow::{Context, Result, bail};

/// What became of some tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// Tests that were to run.
    pub(crate) tests: u32,
    /// Tests that failed in one way or the other.
    pub(crate) failed: u32,
    /// Tests that did not run.
    pub(crate) skipped: u32,
    /// One for each failed test.
    pub(crate) failures: Vec<Failure>,
}

/// A failed test.
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

    fn parse(xml: &str) -> Result<Report> {
        let mut report = Report::default();
        let mut test = String::new();
        let mut suites = 0;
        for tag in tags(xml) {
            let number = |name: &str| -> Result<u32> {
                let text = tag.attribute(name).with_context(|| format!("no attribute {name}"))?;
                text.parse().with_context(|| format!("attribute {name} is {text}"))
            };
            match tag.name {
                "testsuite" => {
                    suites += 1;
                    report.tests += number("tests")?;
                    report.skipped += number("skipped")?;
                    report.failed += number("failures")? + number("errors")?;
                }
                "testcase" => {
                    let class = tag.attribute("classname").unwrap_or_default();
                    let class = class.rsplit('.').next().unwrap_or_default();
                    test = format!("{class}.{}", tag.attribute("name").unwrap_or_default());
                }
                "failure" | "error" => {
                    let message =
                        tag.attribute("message").or_else(|| tag.attribute("type")).unwrap_or_default();
                    report.failures.push(Failure { test: test.clone(), message });
                }
                _ => {}
            }
        }
        if suites == 0 {
            bail!("no test suite in the report");
        }
        Ok(report)
    }

    fn add(&mut self, other: Report) {
        self.tests += other.tests;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.failures.extend(other.failures);
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

    const XML: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuite xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" name="a.b.SendTest" time="3.5" tests="3" errors="1" skipped="0" failures="1">
  <properties><property name="x" value="a &lt; b > c"/></properties>
  <testcase name="sends" classname="a.b.SendTest" time="1.0"/>
  <testcase name="refuses" classname="a.b.SendTest" time="1.0">
    <failure message="expected: &lt;1&gt;&#10;but was: &lt;2&gt;" type="AssertionFailedError"><![CDATA[<testcase name="none">]]></failure>
    <system-out><![CDATA[<testsuite tests="9"> <failure message="printed">]]></system-out>
  </testcase>
  <testcase name="breaks" classname="a.b.SendTest" time="0.5">
    <error type="java.lang.IllegalStateException">at a.b</error>
  </testcase>
</testsuite>"#;

    #[test]
    fn a_report_is_counts_and_messages() {
        let report = Report::parse(XML).unwrap();
        assert_eq!((report.tests, report.failed, report.skipped), (3, 2, 0));
        let failure =
            |test: &str, message: &str| Failure { test: test.to_owned(), message: message.to_owned() };
        let expected = [
            failure("SendTest.refuses", "expected: <1>\nbut was: <2>"),
            failure("SendTest.breaks", "java.lang.IllegalStateException"),
        ];
        assert_eq!(report.failures, expected);
    }

    #[test]
    fn what_is_no_report_is_an_error() {
        for xml in
            ["", "<html></html>", "<testsuite tests=\"1\"", "<testsuite tests=\"many\" skipped=\"0\"/>"]
        {
            assert!(Report::parse(xml).is_err(), "{xml}");
        }
    }
}
