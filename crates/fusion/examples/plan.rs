//! Prints the plan of a pipeline: `cargo run -p claviger-fusion --example plan -- pipeline.pb [folder]`; with
//! a folder, each stage's descriptor goes there as a message.
//!
//! Invariant: none of the product's; a tool to look at plans with.

use std::error::Error;
use std::io::Write;
use std::path::Path;

use claviger_beam_proto::pipeline::Pipeline;
use claviger_fusion::{PlanOptions, plan};
use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("the path of a pipeline is missing")?;
    let pipeline = Pipeline::decode(std::fs::read(path)?.as_slice())?;
    let plan = plan(&pipeline, &PlanOptions::default())?;
    write!(std::io::stdout(), "{plan}")?;
    if let Some(folder) = arguments.next() {
        for (_, stage) in plan.stages() {
            let path = Path::new(&folder).join(&stage.descriptor.id);
            std::fs::write(path, stage.descriptor.encode_to_vec())?;
        }
    }
    Ok(())
}
