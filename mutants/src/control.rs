//! The killers of what is not broken: if one of them fails there too, it says nothing of a mutant.

use std::collections::BTreeMap;

use crate::{
    killer::{self, Killer},
    mutant::Mutant,
};

/// How long the killers of one executable may take, which go all of their way.
const SECONDS: u64 = 600;

/// Returns a row for each executable that changes nothing, and must be survived.
pub(crate) fn controls(mutants: &[&Mutant]) -> Vec<Mutant> {
    let mut by_target = BTreeMap::<_, Vec<Killer>>::new();
    for killer in mutants.iter().flat_map(|mutant| &mutant.killers) {
        let killers = by_target.entry(&killer.target).or_default();
        if !killers.contains(killer) {
            killers.push(killer.clone());
        }
    }
    let row = |(target, killers)| {
        let name = format!("nothing is broken: {}", killer::arguments(&[target]).join(" "));
        let survives = Some("nothing is broken".to_owned());
        Mutant { seconds: SECONDS, survives, ..Mutant::unbroken(name, killers) }
    };
    by_target.into_iter().map(row).collect()
}

#[cfg(test)]
mod tests;
