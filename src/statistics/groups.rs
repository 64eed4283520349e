//! The groups of negatives: those of a row's class, those of its superclass, and all others.

use std::collections::HashMap;

use super::{ByGroup, Request};
use crate::cpu::{Float, UnitRows};
use crate::error::{Error, Result};

/// The classes and superclasses of the rows, numbered from 0.
pub struct Groups {
    classes: Option<Partition>,
    superclasses: Option<Partition>,
    rows: usize,
}

/// A partition of the rows.
struct Partition {
    /// The part that contains each row, [rows].
    part: Vec<u32>,
    /// The number of rows of each part.
    sizes: Vec<u64>,
}

/// The number of rows in a row's class, in its superclass, and in total. Each includes the row itself.
struct Nested<T> {
    class: T,
    superclass: T,
    all: T,
}

impl Groups {
    /// Checks and numbers the labels.
    pub fn new(rows: usize, request: &Request<'_>) -> Result<Self> {
        let partition = |name, labels: Option<&[i64]>| labels.map(|labels| Partition::new(name, labels, rows));
        let groups = Self {
            classes: partition("classes", request.classes).transpose()?,
            superclasses: partition("superclasses", request.superclasses).transpose()?,
            rows,
        };
        if let (Some(classes), Some(superclasses)) = (request.classes, request.superclasses) {
            expect_nested(classes, superclasses)?;
        }
        Ok(groups)
    }

    /// The number of each row's class and of its superclass, padded with 0 to `padded` rows.
    pub fn numbers(&self, padded: usize) -> (Vec<u32>, Vec<u32>) {
        let each = || (0..self.rows as u32).collect();
        let of = |partition: &Option<Partition>| partition.as_ref().map(|partition| partition.part.clone());
        let mut classes = of(&self.classes).unwrap_or_else(each);
        let mut superclasses = of(&self.superclasses).unwrap_or_else(|| classes.clone());
        classes.resize(padded, 0);
        superclasses.resize(padded, 0);
        (classes, superclasses)
    }

    /// The number of negatives of each row.
    pub fn negatives(&self) -> Vec<ByGroup<u64>> {
        (0..self.rows)
            .map(|row| {
                let Nested { class, superclass, all } = self.sizes(row);
                [class - 1, superclass - class, all - superclass]
            })
            .collect()
    }

    /// The mean similarity of each row with its negatives.
    pub fn means<C: Float>(&self, units: &UnitRows<C>) -> Vec<ByGroup<f64>> {
        let everything = Partition { part: vec![0; self.rows], sizes: vec![self.rows as u64] };
        let sums = |partition: &Partition| partition.sums(units);
        let all = sums(&everything);
        let (of_class, of_superclass) = (self.classes.as_ref().map(sums), self.superclasses.as_ref().map(sums));
        let along = |row: usize, partition: &Option<Partition>, sums: &Option<Vec<f64>>| {
            let part = partition.as_ref().map(|partition| partition.part[row] as usize);
            part.zip(sums.as_ref()).map(|(part, sums)| dot(units.row(row), &sums[part * units.padded_dims..]))
        };
        (0..self.rows)
            .map(|row| {
                let own = units.row(row).iter().map(|x| x.to_f64() * x.to_f64()).sum::<f64>();
                let class = along(row, &self.classes, &of_class).unwrap_or(own);
                let superclass = along(row, &self.superclasses, &of_superclass).unwrap_or(class);
                let all = dot(units.row(row), &all);
                let sizes = self.sizes(row);
                [
                    mean(class - own, sizes.class - 1),
                    mean(superclass - class, sizes.superclass - sizes.class),
                    mean(all - superclass, sizes.all - sizes.superclass),
                ]
            })
            .collect()
    }

    fn sizes(&self, row: usize) -> Nested<u64> {
        let class = self.classes.as_ref().map_or(1, |classes| classes.size_of(row));
        let superclass = self.superclasses.as_ref().map_or(class, |superclasses| superclasses.size_of(row));
        Nested { class, superclass, all: self.rows as u64 }
    }
}

impl Partition {
    fn new(name: &str, labels: &[i64], rows: usize) -> Result<Self> {
        if labels.len() != rows {
            return Err(Error::value(format!("expected `{name}` to have shape [{rows}], but got [{}]", labels.len())));
        }
        if let Some(label) = labels.iter().find(|label| **label < 0) {
            return Err(Error::value(format!("expected `{name}` to be at least 0, but got {label}")));
        }
        let mut numbers = HashMap::new();
        let mut sizes = Vec::new();
        let part = labels
            .iter()
            .map(|label| {
                let number = *numbers.entry(label).or_insert_with(|| {
                    sizes.push(0);
                    sizes.len() - 1
                });
                sizes[number] += 1;
                number as u32
            })
            .collect();
        Ok(Self { part, sizes })
    }

    fn size_of(&self, row: usize) -> u64 {
        self.sizes[self.part[row] as usize]
    }

    /// The sum of the unit rows of each part, [parts, padded_dims].
    fn sums<C: Float>(&self, units: &UnitRows<C>) -> Vec<f64> {
        let mut sums = vec![0.0; self.sizes.len() * units.padded_dims];
        for (row, &part) in self.part.iter().enumerate() {
            let sum = &mut sums[part as usize * units.padded_dims..][..units.padded_dims];
            sum.iter_mut().zip(units.row(row)).for_each(|(sum, x)| *sum += x.to_f64());
        }
        sums
    }
}

/// Checks that all rows of a class have the same superclass.
fn expect_nested(classes: &[i64], superclasses: &[i64]) -> Result<()> {
    let mut superclass_of = HashMap::new();
    for (class, superclass) in classes.iter().zip(superclasses) {
        let first = superclass_of.entry(class).or_insert(superclass);
        if *first != superclass {
            return Err(Error::value(format!(
                "expected `superclasses` to be one for each class, but class {class} has {first} and {superclass}"
            )));
        }
    }
    Ok(())
}

fn mean(sum: f64, count: u64) -> f64 {
    if count == 0 {
        f64::NAN
    } else {
        sum / count as f64
    }
}

/// The inner product of a unit row and a sum of unit rows.
fn dot<C: Float>(row: &[C], sum: &[f64]) -> f64 {
    row.iter().zip(sum).map(|(x, sum)| x.to_f64() * sum).sum()
}
