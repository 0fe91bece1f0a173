//! Tags, their hash, and the subscription expressions made of them.

/// Java's `String.hashCode`: over UTF-16 units, base 31, wrapping at 32 bits. It is on disk and on the wire.
pub fn java_hash(text: &str) -> i32 {
    text.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
}

/// The tags code of a queue entry: the hash of the tag, sign-extended; 0 without tag.
pub fn tags_code(tag: Option<&str>) -> i64 {
    tag.map_or(0, |tag| i64::from(java_hash(tag)))
}

/// Which tags a TAG expression lets through, by hash. Clients look at the text once more themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TagFilter {
    /// Everything: no expression, or `*`.
    All,
    /// Only these hashes.
    Codes(Vec<i64>),
}

impl TagFilter {
    /// Reads an expression such as `TagA || TagB`. An expression of separators only names no tag and is wrong.
    pub fn parse(expression: &str) -> Result<TagFilter, TagExpressionError> {
        let expression = expression.trim();
        if expression.is_empty() || expression == "*" {
            return Ok(TagFilter::All);
        }
        let codes: Vec<i64> = tags(expression).map(|tag| tags_code(Some(tag))).collect();
        if codes.is_empty() {
            return Err(TagExpressionError(expression.chars().take(64).collect()));
        }
        Ok(TagFilter::Codes(codes))
    }

    /// Whether a message with this tags code passes.
    pub fn matches(&self, tags_code: i64) -> bool {
        match self {
            TagFilter::All => true,
            TagFilter::Codes(codes) => codes.contains(&tags_code),
        }
    }
}

/// The tags that an expression names.
pub fn tags(expression: &str) -> impl Iterator<Item = &str> {
    expression.split("||").map(str::trim).filter(|tag| !tag.is_empty())
}

/// An expression that names no tag.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the subscription expression `{0}` names no tag; write `*` or tags separated by `||`")]
pub struct TagExpressionError(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_javas() {
        // From a recorded heartbeat of the Java client.
        assert_eq!(java_hash("TagA"), 2_598_919);
        assert_eq!(java_hash("TagB"), 2_598_920);
        assert_eq!(java_hash(""), 0);
        assert_eq!(java_hash("订单已支付"), {
            let units: Vec<u16> = "订单已支付".encode_utf16().collect();
            units.iter().fold(0i32, |h, u| h.wrapping_mul(31).wrapping_add(i32::from(*u)))
        });
        assert_eq!(tags_code(Some("polygenelubricants")), i64::from(i32::MIN));
    }

    #[test]
    fn an_expression_lets_its_tags_through() {
        let filter = TagFilter::parse(" TagA||TagC ").unwrap();
        assert!(filter.matches(tags_code(Some("TagC"))));
        assert!(!filter.matches(tags_code(Some("TagB"))));
        assert!(!filter.matches(tags_code(None)));
        assert_eq!(TagFilter::parse("*"), Ok(TagFilter::All));
        assert_eq!(TagFilter::parse(""), Ok(TagFilter::All));
        assert!(TagFilter::parse("|| ||").is_err());
    }
}
