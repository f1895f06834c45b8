//! The contract over the KMS double.

mod common;

cmek_contract!(|_clock| async { common::double::Double::new() });
