//! Finds circles of imports: Tarjan's strongly connected components.
//!
//! Look here for how a circle is found. What may import what is in `structure.rs`.

use std::collections::BTreeMap;

/// The circles of a graph, each sorted: groups of nodes that all reach each other.
pub(crate) fn find<'a>(edges: &[(&'a str, &'a str)]) -> Vec<Vec<&'a str>> {
    let mut targets: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (from, to) in edges {
        targets.entry(from).or_default().push(to);
    }
    let mut search = Search {
        targets: &targets,
        numbers: BTreeMap::new(),
        stack: Vec::new(),
        circles: Vec::new(),
    };
    for node in targets.keys() {
        if !search.numbers.contains_key(node) {
            search.visit(node);
        }
    }
    search.circles.sort();
    search.circles
}

struct Search<'g, 'a> {
    targets: &'g BTreeMap<&'a str, Vec<&'a str>>,
    /// The order in which nodes were found.
    numbers: BTreeMap<&'a str, usize>,
    /// Nodes found that are not yet known to be in no circle with those before them.
    stack: Vec<&'a str>,
    circles: Vec<Vec<&'a str>>,
}

impl<'a> Search<'_, 'a> {
    /// Returns the earliest node on the stack that this one reaches. It recurses as deep as the
    /// longest chain of imports, which is short.
    fn visit(&mut self, node: &'a str) -> usize {
        let number = self.numbers.len();
        self.numbers.insert(node, number);
        self.stack.push(node);
        let targets = self.targets;
        let mut lowest = number;
        for target in targets.get(node).into_iter().flatten() {
            lowest = lowest.min(match self.numbers.get(target) {
                None => self.visit(target),
                Some(found) if self.stack.contains(target) => *found,
                Some(_) => continue,
            });
        }
        if lowest == number {
            let start = self.stack.iter().position(|one| *one == node).unwrap_or(0);
            let mut circle = self.stack.split_off(start);
            circle.sort_unstable();
            if circle.len() > 1 {
                self.circles.push(circle);
            }
        }
        lowest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circles_are_found() {
        let check = |edges: &[&str], expected: &[&str]| {
            let edges: Vec<_> = edges.iter().filter_map(|edge| edge.split_once('>')).collect();
            let found: Vec<String> = find(&edges).iter().map(|circle| circle.concat()).collect();
            assert_eq!(found, expected, "{edges:?}");
        };
        check(&[], &[]);
        check(&["a>b", "b>c", "a>c"], &[]);
        check(&["a>b", "b>a"], &["ab"]);
        check(&["a>b", "b>c", "c>d", "d>b", "d>e"], &["bcd"]);
        check(&["a>b", "b>a", "b>c", "c>d", "d>c"], &["ab", "cd"]);
        check(&["a>b", "b>c", "c>a", "c>d", "d>b"], &["abcd"]);
        check(&["d>a", "a>b", "d>c", "c>b", "b>a"], &["ab"]);
        check(&["a>a"], &[]);
    }
}
