//! Published files unpacked: raw, xz, zstd, gzip, told apart by their first bytes.

use std::io::{self, BufRead, BufReader, Read};

use liblzma::stream::{Action, MtStreamBuilder, Status, Stream};

/// How a published file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Raw,
    Xz,
    Zstd,
    Gzip,
}

/// More than any preset of xz(1) needs (65 MiB with -9); a file that wants more is refused.
const XZ_MEMORY: u64 = 512 << 20;
/// Above this, fewer blocks are decoded at once.
const XZ_MEMORY_THREADS: u64 = 256 << 20;

impl Packing {
    /// By the first bytes; `name` is only asked whether it promises something else.
    ///
    /// # Errors
    /// What is wrong, where the file is packed in a way that metis does not read or is not what its name says.
    pub(super) fn detect(first: &[u8], name: &str) -> Result<Self, String> {
        const UNREAD: [(&[u8], &str); 5] =
            [(b"BZh", "bzip2"), (b"PK\x03\x04", "zip"), (b"7z\xbc\xaf", "7-Zip"), (b"\x04\x22\x4d\x18", "lz4"), (b"LZIP", "lzip")];
        if let Some((_, kind)) = UNREAD.iter().find(|(magic, _)| first.starts_with(magic)) {
            return Err(format!("it is packed with {kind}; publish it raw or as xz, zstd or gzip"));
        }
        let skippable = first.get(1..4) == Some(b"\x2a\x4d\x18") && first[0] & 0xF0 == 0x50;
        let found = if first.starts_with(b"\xfd7zXZ\0") {
            Self::Xz
        } else if first.starts_with(b"\x28\xb5\x2f\xfd") || skippable {
            Self::Zstd
        } else if first.starts_with(b"\x1f\x8b") {
            Self::Gzip
        } else {
            Self::Raw
        };
        let promised =
            [(".xz", Self::Xz), (".zst", Self::Zstd), (".gz", Self::Gzip)].into_iter().find(|(ending, _)| name.ends_with(ending));
        match promised {
            Some((ending, _)) if found == Self::Raw => Err(format!("its name ends with {ending}, but it is no such file")),
            _ => Ok(found),
        }
    }

    /// The unpacked bytes of `input`. Concatenated members are read as one; a truncated file and trailing garbage are errors.
    pub(super) fn reader<'a>(self, input: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
        let input = BufReader::with_capacity(1 << 18, input);
        Ok(match self {
            Self::Raw => Box::new(input),
            Self::Xz => Box::new(Xz::new(input)),
            Self::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(input)?),
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        })
    }
}

/// A .xz file: streams one after another, with padding between and behind them. Blocks are decoded in parallel where the file has several.
struct Xz<R> {
    input: R,
    stream: Option<Stream>,
    streams: u64,
    /// Zero bytes since the last stream; the format wants a multiple of four.
    padding: u64,
}

impl<R: BufRead> Xz<R> {
    fn new(input: R) -> Self {
        Self { input, stream: None, streams: 0, padding: 0 }
    }

    /// Skips padding and begins the next stream; `None` at the end of the file.
    fn next_stream(&mut self) -> io::Result<Option<Stream>> {
        loop {
            let buf = self.input.fill_buf()?;
            let zeros = if self.streams == 0 { 0 } else { buf.iter().take_while(|&&byte| byte == 0).count() };
            let (end, only_zeros) = (buf.is_empty(), zeros == buf.len());
            self.input.consume(zeros);
            self.padding += zeros as u64;
            if end || !only_zeros {
                if !self.padding.is_multiple_of(4) {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "the xz padding is damaged"));
                }
                return if end && self.streams > 0 { Ok(None) } else { self.begin().map(Some) };
            }
        }
    }

    fn begin(&mut self) -> io::Result<Stream> {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        (self.streams, self.padding) = (self.streams + 1, 0);
        let mut builder = MtStreamBuilder::new();
        builder.threads(threads).memlimit_threading(XZ_MEMORY_THREADS).memlimit_stop(XZ_MEMORY);
        Ok(builder.decoder()?)
    }
}

impl<R: BufRead> Read for Xz<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            let mut stream = match self.stream.take() {
                Some(stream) => stream,
                None => match self.next_stream()? {
                    Some(stream) => stream,
                    None => return Ok(0),
                },
            };
            let input = self.input.fill_buf()?;
            let end = input.is_empty();
            let (before_in, before_out) = (stream.total_in(), stream.total_out());
            let status = stream.process(input, buf, if end { Action::Finish } else { Action::Run })?;
            let (taken, given) = ((stream.total_in() - before_in) as usize, (stream.total_out() - before_out) as usize);
            self.input.consume(taken);
            if status != Status::StreamEnd {
                self.stream = Some(stream);
            }
            if given > 0 {
                return Ok(given);
            }
            if end && taken == 0 && status == Status::MemNeeded {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the xz stream is truncated"));
            }
        }
    }
}

/// Fills `buf` as far as the input goes.
pub(super) fn fill(input: &mut dyn Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buf.len() {
        match input.read(&mut buf[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => (),
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}
