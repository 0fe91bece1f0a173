//! Who in a group consumes which queue: RocketMQ's average strategy ("AVG"), on which all members must agree.

/// The part of `queues` that falls to `own` among `members`. Both must be sorted: every member computes the same
/// split by itself. A client that is no member gets nothing.
pub fn average<'a, Q>(queues: &'a [Q], members: &[String], own: &str) -> &'a [Q] {
    let Some(index) = members.iter().position(|member| member == own) else { return &[] };
    let share = queues.len() / members.len();
    let extra = queues.len() % members.len();
    // The first `extra` members have one more.
    let start = index * share + index.min(extra);
    &queues[start..start + share + usize::from(index < extra)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn members(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("c{number:03}")).collect()
    }

    /// As `AllocateMessageQueueAveragely.allocate` of the Java client computes it.
    fn java(queues: usize, clients: usize, index: usize) -> Vec<usize> {
        let rest = queues % clients;
        let size =
            if queues <= clients { 1 } else { queues / clients + usize::from(rest > 0 && index < rest) };
        let start = if rest > 0 && index < rest { index * size } else { index * size + rest };
        let range = size.min(queues.saturating_sub(start));
        (0..range).map(|step| (start + step) % queues).collect()
    }

    #[test]
    fn known_splits_of_the_java_client() {
        let queues: Vec<usize> = (0..8).collect();
        let members = members(3);
        assert_eq!(average(&queues, &members, "c000"), [0, 1, 2]);
        assert_eq!(average(&queues, &members, "c001"), [3, 4, 5]);
        assert_eq!(average(&queues, &members, "c002"), [6, 7]);
        assert_eq!(average(&queues, &members, "stranger"), [0; 0]);
        assert_eq!(average(&queues[..2], &members, "c002"), [0; 0]);
    }

    proptest! {
        #[test]
        fn every_queue_has_exactly_one_owner_and_shares_differ_by_one_at_most(queues in 0usize..80, clients in 1usize..40) {
            let queues: Vec<usize> = (0..queues).collect();
            let members = members(clients);
            let shares: Vec<&[usize]> = members.iter().map(|own| average(&queues, &members, own)).collect();
            prop_assert_eq!(shares.concat(), queues.clone());
            let lengths = shares.iter().map(|share| share.len());
            prop_assert!(lengths.clone().max().unwrap() - lengths.min().unwrap() <= 1);
            for (index, share) in shares.iter().enumerate() {
                prop_assert_eq!(share.to_vec(), java(queues.len(), clients, index));
            }
        }
    }
}
