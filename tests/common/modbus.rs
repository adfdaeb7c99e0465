//! A PLC that speaks Modbus TCP by hand, and finds its registers as an integrator does: in `inspectd modbus-map --json`.

use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

/// No answer of a server on this machine takes longer, however busy it is.
const ANSWER: Duration = Duration::from_secs(20);
/// A PLC asks once a cycle.
const CYCLE: Duration = Duration::from_millis(1);

/// The registers by name, and the bits of `status` and `control`.
pub(crate) struct Map {
    registers: BTreeMap<String, (u16, u16)>,
    bits: BTreeMap<String, u16>,
    /// All of it.
    pub json: Value,
}

impl Map {
    pub(crate) fn load() -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_inspectd"));
        let out = command.args(["modbus-map", "--json"]).output().expect("the binary runs");
        let json: Value = serde_json::from_slice(&out.stdout).expect("JSON");
        let list = |key: &str| json[key].as_array().expect("a list").clone();
        let number = |row: &Value, key: &str| row[key].as_u64().expect("a number") as u16;
        let name = |row: &Value| row["name"].as_str().expect("a name").to_owned();
        let registers = list("registers");
        let registers = registers.iter().map(|r| (name(r), (number(r, "address"), number(r, "words"))));
        let bits = [list("status_bits"), list("control_bits")].concat();
        let bits = bits.iter().map(|b| (name(b), 1 << number(b, "bit")));
        Self { registers: registers.collect(), bits: bits.collect(), json: json.clone() }
    }

    /// Address and registers of a word.
    pub(crate) fn at(&self, name: &str) -> (u16, u16) {
        *self.registers.get(name).unwrap_or_else(|| panic!("no register {name}"))
    }

    pub(crate) fn bit(&self, name: &str) -> u16 {
        *self.bits.get(name).unwrap_or_else(|| panic!("no bit {name}"))
    }

    /// Registers of a block that begins at `from`.
    fn block(&self, from: u16, access: impl Fn(u16) -> bool) -> u16 {
        let ends = self.registers.values().filter(|(at, _)| access(*at)).map(|(at, words)| at + words);
        ends.max().expect("a block") - from
    }
}

/// A connection to one unit.
pub(crate) struct Plc<'a> {
    pub map: &'a Map,
    stream: TcpStream,
    unit: u8,
    transaction: u16,
}

/// The station's words, read in one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image(pub Vec<u16>);

impl<'a> Plc<'a> {
    pub(crate) fn connect(map: &'a Map, port: u16, unit: u8) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER))?;
        Ok(Self { map, stream, unit, transaction: 0 })
    }

    /// Connects as soon as somebody listens.
    pub(crate) fn connect_soon(map: &'a Map, port: u16, unit: u8) -> Self {
        let until = Instant::now() + Duration::from_mins(2);
        loop {
            match Self::connect(map, port, unit) {
                Ok(plc) => return plc,
                Err(error) => assert!(Instant::now() < until, "nobody listens: {error}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends a request and returns its answer, both without their headers; an exception is `Err` inside.
    pub(crate) fn ask(&mut self, request: &[u8]) -> io::Result<Result<Vec<u8>, u8>> {
        std::thread::sleep(CYCLE);
        self.transaction = self.transaction.wrapping_add(1);
        let mut frame = self.transaction.to_be_bytes().to_vec();
        frame.extend([0, 0]);
        frame.extend((request.len() as u16 + 1).to_be_bytes());
        frame.push(self.unit);
        frame.extend(request);
        self.stream.write_all(&frame)?;
        let mut header = [0; 7];
        self.stream.read_exact(&mut header)?;
        assert_eq!((&header[..4], header[6]), (&frame[..4], self.unit), "the answer to another frame");
        let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let mut answer = vec![0; length - 1];
        self.stream.read_exact(&mut answer)?;
        if answer[0] == request[0] | 0x80 {
            return Ok(Err(answer[1]));
        }
        assert_eq!(answer[0], request[0], "the function is echoed");
        Ok(Ok(answer))
    }

    pub(crate) fn read(&mut self, function: u8, at: u16, count: u16) -> io::Result<Result<Vec<u16>, u8>> {
        let mut request = vec![function];
        request.extend(at.to_be_bytes());
        request.extend(count.to_be_bytes());
        let answer = self.ask(&request)?;
        let words =
            |bytes: &[u8]| bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
        Ok(answer.map(|answer| words(&answer[2..])))
    }

    pub(crate) fn write(&mut self, at: u16, words: &[u16]) -> io::Result<Result<(), u8>> {
        let mut request = vec![16];
        request.extend(at.to_be_bytes());
        request.extend((words.len() as u16).to_be_bytes());
        request.push(2 * words.len() as u8);
        words.iter().for_each(|word| request.extend(word.to_be_bytes()));
        Ok(self.ask(&request)?.map(|_| ()))
    }

    /// All words of the station.
    pub(crate) fn image(&mut self) -> io::Result<Image> {
        let count = self.map.block(0, |at| at < 200);
        let read = self.read(4, 0, count)?;
        read.map(Image).map_err(|code| io::Error::new(ErrorKind::InvalidData, format!("exception {code}")))
    }

    /// Sets the bits of `control` that are named, and no others.
    pub(crate) fn control(&mut self, bits: &[&str]) -> io::Result<()> {
        let word = bits.iter().map(|name| self.map.bit(name)).fold(0, |word, bit| word | bit);
        let at = self.map.at("control").0;
        self.write(at, &[word])?.map_err(|code| io::Error::new(ErrorKind::ResourceBusy, code.to_string()))
    }

    /// Writes a text, padded with spaces as a PLC pads its strings.
    pub(crate) fn text(&mut self, name: &str, text: &str) -> io::Result<()> {
        let (at, words) = self.map.at(name);
        let bytes: Vec<u8> = text.bytes().chain(std::iter::repeat(b' ')).take(2 * words as usize).collect();
        let words: Vec<u16> = bytes.chunks_exact(2).map(|p| u16::from_be_bytes([p[0], p[1]])).collect();
        self.write(at, &words)?.map_err(|code| io::Error::new(ErrorKind::ResourceBusy, code.to_string()))
    }

    /// Reads until this holds.
    pub(crate) fn until(&mut self, what: &str, holds: impl Fn(&Map, &Image) -> bool) -> io::Result<Image> {
        let until = Instant::now() + Duration::from_mins(2);
        loop {
            let image = self.image()?;
            if holds(self.map, &image) {
                return Ok(image);
            }
            assert!(Instant::now() < until, "waited in vain for {what}: {image:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Reads until a bit of `status` stands so.
    pub(crate) fn until_bit(&mut self, bit: &str, stands: bool) -> io::Result<Image> {
        self.until(bit, |map, image| image.has(map, bit) == stands)
    }
}

impl Image {
    pub(crate) fn get(&self, map: &Map, name: &str) -> u32 {
        let (at, words) = map.at(name);
        let words = &self.0[at as usize..(at + words) as usize];
        words.iter().fold(0, |value, word| (value << 16) | u32::from(*word))
    }

    pub(crate) fn has(&self, map: &Map, bit: &str) -> bool {
        self.get(map, "status") as u16 & map.bit(bit) != 0
    }

    /// A text without its padding.
    pub(crate) fn text(&self, map: &Map, name: &str) -> String {
        let (at, words) = map.at(name);
        let bytes: Vec<u8> =
            self.0[at as usize..(at + words) as usize].iter().flat_map(|word| word.to_be_bytes()).collect();
        String::from_utf8(bytes).expect("ASCII").trim_matches(['\0', ' ']).to_owned()
    }
}

/// A port that nobody has.
pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}
