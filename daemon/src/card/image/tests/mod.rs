mod cache;
mod files;
mod https;
mod server;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::super::bytes::hex;
use super::super::testing::{arg, ok, sfdisk, sparse};
use super::super::{Layout, MemImage, Settings, Verified};
use super::*;

const MIB: u64 = 1 << 20;

/// A cache directory and what belongs to it.
struct Bench {
    dir: tempfile::TempDir,
    settings: Settings,
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let settings =
        Settings { cache_dir: dir.path().join("cache"), free_space_floor: 0, max_image_size: 64 * MIB, ca_file: None, writer_socket: None };
    Bench { dir, settings }
}

impl Bench {
    fn store(&self) -> Store {
        let patience =
            Patience { connect: Duration::from_secs(5), read: Duration::from_millis(300), attempts: 3, pause: Duration::from_millis(10) };
        Store::new(self.settings.clone()).with_patience(patience)
    }

    fn publish(&self, name: &str, content: &[u8]) -> ImageRef {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        reference(&format!("file://{}", path.display()), content)
    }

    /// Files of the cache, without locks.
    fn cached(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(&self.settings.cache_dir) else { return Vec::new() };
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| !name.contains(".lock"));
        names.sort();
        names
    }

    fn path(&self, image: &ImageRef, ending: &str) -> PathBuf {
        self.settings.cache_dir.join(format!("{}.{ending}", image.sha256))
    }
}

fn reference(url: &str, content: &[u8]) -> ImageRef {
    ImageRef { url: url.to_owned(), sha256: sha256(content), content_sha256: None }
}

fn sha256(content: &[u8]) -> String {
    hex(&Sha256::digest(content))
}

async fn fetch(store: &Store, image: &ImageRef) -> Result<Verified, ImageError> {
    store.fetch(image, &|_| (), &CancellationToken::new()).await
}

fn bytes_of(image: &Verified) -> Vec<u8> {
    let mut buf = vec![0; image.data().size() as usize];
    image.data().read_exact_at(&mut buf, 0).unwrap();
    buf
}

/// Bytes that do not compress, always the same for one seed within one run.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    static POOL: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut pool = vec![0; 32 << 20];
        std::fs::File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut pool)).unwrap();
        pool
    });
    let start = seed as usize * 4099 % (POOL.len() - len);
    POOL[start..start + len].to_vec()
}

/// An image of 21 MiB without a partition table: noise, zeros, and an odd end in the middle of a chunk.
fn plain_image() -> Vec<u8> {
    let mut image = noise(9 * MIB as usize, 1);
    image.resize(17 * MIB as usize, 0);
    image.extend(noise(4 * MIB as usize + 700, 2));
    image
}

/// A card image of 32 MiB by the usual tools: boot loader gap, one ext4 with files, garbage in its free blocks.
fn card_image(dir: &Path) -> Vec<u8> {
    let (disk, part, tree) = (dir.join("card.img"), dir.join("part.img"), dir.join("tree"));
    std::fs::create_dir_all(tree.join("etc")).unwrap();
    std::fs::write(tree.join("etc/os-release"), noise(3_000_000, 3)).unwrap();
    sparse(&disk, 32 * MIB);
    sparse(&part, 24 * MIB);
    sfdisk(&disk, "label: dos\nstart=8192,size=49152,type=83\n");
    ok("mkfs.ext4", &["-q", "-d", arg(&tree), arg(&part)]);
    let mut image = std::fs::read(&disk).unwrap();
    image[4 * MIB as usize..28 * MIB as usize].copy_from_slice(&std::fs::read(&part).unwrap());
    image[8192..8192 + 5000].copy_from_slice(&noise(5000, 4));
    let layout = Layout::read(&MemImage(image.clone())).unwrap();
    let free = extents::free(&MemImage(image.clone()), &layout).unwrap();
    for hole in free {
        image[hole.offset as usize..(hole.offset + hole.len) as usize].copy_from_slice(&noise(hole.len as usize, hole.offset));
    }
    image
}

fn pack(program: &str, args: &[&str], content: &[u8]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("in");
    std::fs::write(&path, content).unwrap();
    let out = dir.path().join("out");
    ok("sh", &["-c", &format!("{program} {} < {} > {}", args.join(" "), arg(&path), arg(&out))]);
    std::fs::read(out).unwrap()
}
