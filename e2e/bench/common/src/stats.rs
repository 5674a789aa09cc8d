//! Least, middle and most of a few figures, and ratios between servers pair by pair.

use serde::Serialize;

/// Least, median and most.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Spread {
    /// The least.
    pub min: f64,
    /// The middle; of an even number, the mean of the middle two.
    pub median: f64,
    /// The most.
    pub max: f64,
}

impl Spread {
    /// Of at least one figure; none of none.
    pub fn of(figures: &[f64]) -> Option<Self> {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        Some(Spread { min, median, max })
    }
}

/// The ratios of figures to those of the other of the same round, for rounds that have both.
pub fn pairwise(ours: &[(usize, f64)], others: &[(usize, f64)]) -> Vec<f64> {
    let pairs = ours.iter().filter_map(|(round, figure)| {
        let (_, other) = others.iter().find(|(other_round, _)| other_round == round)?;
        (*other > 0.0).then_some(figure / other)
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn median_of_even_count_is_the_mean_of_the_middle_two() {
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 3.0]), Some(Spread { min: 1.0, median: 2.5, max: 4.0 }));
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn ratios_pair_figures_of_the_same_round_only() {
        let ours = [(0, 2.0), (1, 9.0), (2, 3.0)];
        let others = [(0, 4.0), (2, 3.0)];
        assert_eq!(pairwise(&ours, &others), [0.5, 1.0]);
    }
}
