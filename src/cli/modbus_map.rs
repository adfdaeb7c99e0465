//! `inspectd modbus-map`: the registers for PLCs, as the server has them.

use super::columns::{Align, Columns};
use super::output::print;
use crate::publish::modbus::codes::{Code, ERRORS, GRADES, REASONS, VERDICTS};
use crate::publish::modbus::map::{Bit, CONTROL_BITS, INPUTS, OUTPUTS, PROTOCOL, Register, STATUS_BITS};
use serde_json::{Value, json};
use std::process::ExitCode;

/// How to print.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// One JSON object: registers, bits and numbers.
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// The registers alone, for a tool that makes tags of them.
    #[arg(long)]
    csv: bool,
}

/// Runs the command.
///
/// # Errors
/// Standard output cannot be written.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let text = match args {
        Args { json: true, .. } => format!("{}\n", json()),
        Args { csv: true, .. } => csv(),
        Args { .. } => text(),
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn registers() -> impl Iterator<Item = &'static Register> {
    OUTPUTS.iter().chain(INPUTS)
}

const BITS: [(&str, &[Bit]); 2] = [("status_bits", STATUS_BITS), ("control_bits", CONTROL_BITS)];
const CODES: [(&str, &[Code]); 4] =
    [("error_codes", ERRORS), ("verdicts", VERDICTS), ("reasons", REASONS), ("grades", GRADES)];

fn json() -> Value {
    let register = |r: &Register| {
        json!({
            "address": r.address, "words": r.words, "name": r.name, "kind": r.kind.as_str(),
            "access": r.access.as_str(), "unit": r.unit, "meaning": r.meaning,
        })
    };
    let bit = |b: &Bit| json!({ "bit": b.bit, "name": b.name, "meaning": b.meaning });
    let code = |c: &Code| json!({ "number": c.number, "word": c.word, "meaning": c.meaning });
    let mut map = json!({
        "protocol": PROTOCOL, "word_order": "big-endian, high register first",
        "registers": registers().map(register).collect::<Vec<_>>(),
    });
    for (name, bits) in BITS {
        map[name] = bits.iter().map(bit).collect();
    }
    for (name, codes) in CODES {
        map[name] = codes.iter().map(code).collect();
    }
    map
}

/// No text of the table holds a quotation mark (a test sees to it).
fn csv() -> String {
    let row = |r: &Register| {
        let (kind, access) = (r.kind.as_str(), r.access.as_str());
        format!("{},{},{},{kind},{access},{},\"{}\"\n", r.address, r.words, r.name, r.unit, r.meaning)
    };
    let rows: String = registers().map(row).collect();
    format!("address,words,name,kind,access,unit,meaning\n{rows}")
}

fn text() -> String {
    use Align::{Left, Right};
    let columns = [
        ("address", Right),
        ("words", Right),
        ("name", Left),
        ("kind", Left),
        ("access", Left),
        ("unit", Left),
        ("meaning", Left),
    ];
    let mut table = Columns::new(&columns);
    for r in registers() {
        let (kind, access) = (r.kind.as_str(), r.access.as_str());
        let numbers = [r.address, r.words].map(|number| number.to_string());
        let words = [r.name, kind, access, r.unit, r.meaning].map(str::to_owned);
        table.row(numbers.into_iter().chain(words));
    }
    let mut out = format!("{table}\n");
    for (name, bits) in BITS {
        let mut table = Columns::new(&[("bit", Right), (name, Left), ("meaning", Left)]);
        bits.iter().for_each(|b| table.row([b.bit.to_string(), b.name.to_owned(), b.meaning.to_owned()]));
        out += &format!("{table}\n");
    }
    for (name, codes) in CODES {
        let mut table = Columns::new(&[("number", Right), (name, Left), ("meaning", Left)]);
        codes.iter().for_each(|c| table.row([c.number.to_string(), c.word.to_owned(), c.meaning.to_owned()]));
        out += &format!("{table}\n");
    }
    out += "Addresses are those in the frame, from 0. Words of two registers have the high register first.\n";
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_is_printed_in_three_forms() {
        assert!(registers().all(|r| !r.meaning.contains('"')));
        let map = json();
        assert_eq!(map["registers"].as_array().unwrap().len(), OUTPUTS.len() + INPUTS.len());
        assert_eq!(map["error_codes"][1]["word"], "not_enabled");
        let csv = csv();
        assert!(csv.lines().any(|line| line.starts_with("22,2,latency,u32,read,ms,")), "{csv}");
        let text = text();
        assert!(text.contains("inspection_id") && text.contains("result_ack") && text.contains("review"));
    }
}
