//! `remora`: the tool in a person's hand.

fn main() {}
