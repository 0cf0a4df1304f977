//! An SQLite VFS that writes the frames of a transaction to the write-ahead log with one call.
//!
//! SQLite writes each page of a transaction to its log with two calls of the system: 24 bytes and the page. For small
//! transactions that is most of what they cost. The VFS here stands before the one that SQLite has, gathers what is
//! appended to a log, and writes it with the last page of the transaction. The file has the same bytes, and SQLite is told
//! of an error where it commits. Everything else (the database, locks, shared memory, flushes) is left to the VFS behind;
//! of the locks it sees the one that lets a connection write, since nothing may stay gathered for longer than that is held.
//!
//! For the connection that writes; others read the same file with any VFS.
//!
//! ```
//! use rusqlite::{Connection, OpenFlags};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("own.db");
//! let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
//! let conn = match axum_taskflow_wal::vfs() {
//!     Some(vfs) => Connection::open_with_flags_and_vfs(&path, flags, vfs)?,
//!     None => Connection::open_with_flags(&path, flags)?,
//! };
//! conn.execute_batch("PRAGMA journal_mode = wal; CREATE TABLE t (n)")?;
//! # Ok(())
//! # }
//! ```

#![allow(
    unsafe_code,
    reason = "a VFS is C called from C; this crate is there so that no other one has to"
)]

mod gather;

use std::{
    ffi::{CStr, c_int, c_void},
    mem, ptr, slice,
    sync::OnceLock,
};

use rusqlite::ffi::{
    self, SQLITE_IOERR_READ, SQLITE_IOERR_SHMLOCK, SQLITE_IOERR_SHMMAP, SQLITE_IOERR_WRITE,
    SQLITE_OK, SQLITE_OPEN_MAIN_DB, SQLITE_OPEN_WAL, SQLITE_SHM_EXCLUSIVE, SQLITE_SHM_LOCK,
    SQLITE_SHM_UNLOCK, sqlite3_file, sqlite3_filename, sqlite3_int64, sqlite3_io_methods,
    sqlite3_vfs,
};

use gather::Gather;

const NAME: &CStr = c"axum-taskflow-wal";

/// The name of the VFS, for [`Connection::open_with_flags_and_vfs`](rusqlite::Connection::open_with_flags_and_vfs). It
/// stands before the one that is SQLite's default when this is called for the first time. None if that is not one of
/// SQLite's own for files: then a connection does without.
pub fn vfs() -> Option<&'static CStr> {
    static IS_THERE: OnceLock<bool> = OnceLock::new();
    IS_THERE.get_or_init(register).then_some(NAME)
}

/// The VFS behind ours, which lives as long as the process.
static BEHIND: OnceLock<Behind> = OnceLock::new();

struct Behind(*mut sqlite3_vfs);

// SAFETY: SQLite calls a VFS from any thread; of what is behind the pointer nothing is changed.
unsafe impl Send for Behind {}
// SAFETY: as above.
unsafe impl Sync for Behind {}

fn register() -> bool {
    // SAFETY: no name asks for the default; SQLite starts itself if need be.
    let behind = unsafe { ffi::sqlite3_vfs_find(ptr::null()) };
    // SAFETY: a VFS that SQLite names is there, and stays; every version begins with its number.
    if behind.is_null() || unsafe { (*behind).iVersion } < 3 {
        return false; // a structure that ends earlier cannot be copied
    }
    // SAFETY: it is as long as ours, or longer.
    let found = unsafe { &*behind };
    // SAFETY: each has a name, which ends with a zero.
    let name = unsafe { CStr::from_ptr(found.zName) };
    // What others have behind the structure is not copied, and their functions may look for it.
    let is_sqlites = [c"unix", c"unix-excl", c"win32", c"win32-longpath"].contains(&name);
    if !is_sqlites || found.xOpen.is_none() {
        return false;
    }
    // A copy, with what its functions look for in it; they get ours and do not know the difference. `xOpen` gets its own.
    let ours = sqlite3_vfs {
        iVersion: 3, // what a later one has behind is not copied
        szOsFile: found.szOsFile + BEHIND_AT as c_int,
        pNext: ptr::null_mut(),
        zName: NAME.as_ptr(),
        xOpen: Some(open),
        ..*found
    };
    if BEHIND.set(Behind(behind)).is_err() {
        return false;
    }
    // SAFETY: the structure is never freed, as SQLite asks, and whole.
    unsafe { ffi::sqlite3_vfs_register(Box::into_raw(Box::new(ours)), 0) == SQLITE_OK }
}

/// A database or its log, in the memory that SQLite gives for a file. The file of the VFS behind follows in the same.
#[repr(C)]
struct Ours {
    base: sqlite3_file,
    /// What is gathered for the log. The database has it, from [`open`] to [`close_database`]; its log borrows it, since
    /// SQLite opens that after the database and closes it before.
    gather: *mut Gather,
}

/// Where in that memory the file behind begins: at a multiple of 8, as SQLite's.
const BEHIND_AT: usize = size_of::<Ours>().next_multiple_of(8);

/// Bytes that go with one call: the VFS of Unix writes only what is left of the length after 128 KiB, which is what
/// SQLite's pages never reach.
const WRITE_MAX: usize = 124 * 1024;

/// The first of the locks in the shared memory: who has it may write to the log.
/// <https://www.sqlite.org/walformat.html#wal_locks>
const WRITE_LOCK: c_int = 0;

static LOG: sqlite3_io_methods = sqlite3_io_methods {
    iVersion: 1, // a log has neither locks nor shared memory of its own, and is not mapped
    xClose: Some(close_log),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

/// By their version, which says what there is: from 2 on a shared memory, from 3 on a mapped file.
static DATABASES: [sqlite3_io_methods; 3] = [database(1), database(2), database(3)];

const fn database(version: c_int) -> sqlite3_io_methods {
    sqlite3_io_methods {
        iVersion: version,
        xClose: Some(close_database),
        xRead: Some(read_database),
        xWrite: Some(write_database),
        xTruncate: Some(truncate_database),
        xSync: Some(sync_database),
        xFileSize: Some(file_size_of_database),
        xLock: Some(lock),
        xUnlock: Some(unlock),
        xCheckReservedLock: Some(check_reserved_lock),
        xFileControl: Some(file_control_of_database),
        xSectorSize: Some(sector_size),
        xDeviceCharacteristics: Some(device_characteristics),
        xShmMap: Some(shm_map),
        xShmLock: Some(shm_lock),
        xShmBarrier: Some(shm_barrier),
        xShmUnmap: Some(shm_unmap),
        xFetch: Some(fetch),
        xUnfetch: Some(unfetch),
    }
}

/// # Safety
/// As SQLite calls it: `file` has room for `szOsFile` bytes, and `name` is SQLite's.
unsafe extern "C" fn open(
    _: *mut sqlite3_vfs,
    name: sqlite3_filename,
    file: *mut sqlite3_file,
    flags: c_int,
    flags_out: *mut c_int,
) -> c_int {
    let Some(Behind(vfs)) = BEHIND.get() else {
        return SQLITE_IOERR_READ;
    };
    let vfs = *vfs;
    // SAFETY: it stays as long as the process.
    let Some(open_behind) = (unsafe { (*vfs).xOpen }) else {
        return SQLITE_IOERR_READ;
    };
    let borrowed = match flags & SQLITE_OPEN_WAL {
        0 => ptr::null_mut(),
        // SAFETY: it is a log, and the name is SQLite's.
        _ => unsafe { gather_of_database(name) },
    };
    if flags & SQLITE_OPEN_MAIN_DB == 0 && borrowed.is_null() {
        // SAFETY: the arguments are SQLite's, and there is more room than the VFS behind has asked for.
        return unsafe { open_behind(vfs, name, file, flags, flags_out) };
    }
    // SAFETY: `file` has room for ours and, behind it, for that of the VFS behind.
    let behind = unsafe { behind(file) };
    // SAFETY: as above; a file that could not be opened says so by no methods.
    unsafe { (*behind).pMethods = ptr::null() };
    // SAFETY: the other arguments are SQLite's.
    let outcome = unsafe { open_behind(vfs, name, behind, flags, flags_out) };
    // SAFETY: `open_behind` has set it, or we have.
    let methods = unsafe { (*behind).pMethods };
    let (methods, gather) = if methods.is_null() {
        (ptr::null(), ptr::null_mut()) // then SQLite does not close it
    } else if !borrowed.is_null() {
        (&raw const LOG, borrowed)
    } else {
        // SAFETY: they are of a file that is open.
        let ours = unsafe { for_database(methods) };
        (ours, Box::into_raw(Box::default()))
    };
    let ours = Ours {
        base: sqlite3_file { pMethods: methods },
        gather,
    };
    // SAFETY: there is room, and nothing in it yet that would have to be dropped.
    unsafe { file.cast::<Ours>().write(ours) };
    outcome
}

/// Ours for a file that has these: without a shared memory, it must not seem that there is one.
///
/// # Safety
/// The methods are there, as far as their version says.
unsafe fn for_database(methods: *const sqlite3_io_methods) -> *const sqlite3_io_methods {
    // SAFETY: every version has it.
    let version = unsafe { (*methods).iVersion };
    // SAFETY: versions from 2 on have it.
    let has_memory = version >= 2 && unsafe { (*methods).xShmMap }.is_some();
    // SAFETY: versions from 3 on have it.
    let is_mapped = version >= 3 && unsafe { (*methods).xFetch }.is_some();
    let [first, second, third] = &DATABASES;
    match (has_memory, is_mapped) {
        (false, _) => first,
        (true, false) => second,
        (true, true) => third,
    }
}

/// What is gathered for the log of a database that [`open`] has opened; null for one that it has not.
///
/// # Safety
/// `name` is what SQLite gives to open a log.
unsafe fn gather_of_database(name: sqlite3_filename) -> *mut Gather {
    if name.is_null() {
        return ptr::null_mut();
    }
    // SAFETY: by the caller.
    let database = unsafe { ffi::sqlite3_database_file_object(name) };
    if database.is_null() {
        return ptr::null_mut();
    }
    // SAFETY: SQLite has opened it, and has not closed it before its log.
    let methods = unsafe { (*database).pMethods };
    match DATABASES.iter().any(|ours| ptr::eq(ours, methods)) {
        // SAFETY: who has these methods was opened by `open`.
        true => unsafe { (*database.cast::<Ours>()).gather },
        false => ptr::null_mut(), // of a VFS that stands before ours
    }
}

/// The file of the VFS behind.
///
/// # Safety
/// `file` has room for both.
unsafe fn behind(file: *mut sqlite3_file) -> *mut sqlite3_file {
    // SAFETY: by the caller.
    unsafe { file.byte_add(BEHIND_AT) }
}

/// Calls a method of the file behind.
macro_rules! call_behind {
    ($file:expr, $method:ident ( $($argument:expr),* ), else $missing:expr) => {{
        // SAFETY: `open` has opened it, and SQLite has not closed it.
        let file = unsafe { behind($file) };
        // SAFETY: an open file has methods.
        let method = unsafe { (*(*file).pMethods).$method };
        match method {
            // SAFETY: the arguments are those that SQLite gave.
            Some(method) => unsafe { method(file $(, $argument)*) },
            None => $missing,
        }
    }};
}

/// # Safety
/// `file` was opened by [`open`], and nobody has what this has given before: SQLite uses a database and its log from one
/// thread at a time, and no call to one of them goes on within one to the other.
unsafe fn gathered<'a>(file: *mut sqlite3_file) -> &'a mut Gather {
    // SAFETY: by the caller.
    let gather = unsafe { (*file.cast::<Ours>()).gather };
    // SAFETY: it lives until `close_database`.
    unsafe { &mut *gather }
}

/// Writes to the file behind.
///
/// # Safety
/// `file` is a log that [`open`] has opened.
unsafe fn write_behind(file: *mut sqlite3_file, bytes: &[u8], at: i64) -> Result<(), c_int> {
    let mut at = at;
    for bytes in bytes.chunks(WRITE_MAX) {
        let (start, len) = (bytes.as_ptr().cast::<c_void>(), bytes.len() as c_int);
        match call_behind!(file, xWrite(start, len, at), else SQLITE_IOERR_WRITE) {
            SQLITE_OK => at += i64::from(len),
            error => return Err(error),
        }
    }
    Ok(())
}

/// Before anything but a write: the file is to have what SQLite has written.
///
/// # Safety
/// `file` is a log that [`open`] has opened.
unsafe fn flush(file: *mut sqlite3_file) -> Result<(), c_int> {
    // SAFETY: by the caller; it is given back when this returns.
    let gather = unsafe { gathered(file) };
    // SAFETY: by the caller.
    gather.flush(|bytes, at| unsafe { write_behind(file, bytes, at) })
}

/// # Safety
/// As SQLite calls it.
unsafe extern "C" fn write(
    file: *mut sqlite3_file,
    bytes: *const c_void,
    len: c_int,
    at: sqlite3_int64,
) -> c_int {
    let Ok(len) = usize::try_from(len) else {
        return SQLITE_IOERR_WRITE;
    };
    // SAFETY: SQLite gives so many bytes.
    let bytes = unsafe { slice::from_raw_parts(bytes.cast::<u8>(), len) };
    // SAFETY: SQLite writes to what it has opened.
    let gather = unsafe { gathered(file) };
    // SAFETY: as above.
    match gather.write(bytes, at, |bytes, at| unsafe {
        write_behind(file, bytes, at)
    }) {
        Ok(()) => SQLITE_OK,
        Err(error) => error,
    }
}

/// # Safety
/// As SQLite calls it.
unsafe extern "C" fn close_database(file: *mut sqlite3_file) -> c_int {
    let outcome = call_behind!(file, xClose(), else SQLITE_OK);
    // SAFETY: `open` has opened it, and SQLite closes it once.
    let ours = unsafe { &mut *file.cast::<Ours>() };
    ours.base.pMethods = ptr::null();
    let gather = mem::replace(&mut ours.gather, ptr::null_mut());
    if !gather.is_null() {
        // SAFETY: it was made by `Box::into_raw`; the log, which had borrowed it, is closed.
        drop(unsafe { Box::from_raw(gather) });
    }
    outcome
}

/// # Safety
/// As SQLite calls it.
unsafe extern "C" fn shm_lock(
    file: *mut sqlite3_file,
    first: c_int,
    n: c_int,
    flags: c_int,
) -> c_int {
    let is_of_writer = first == WRITE_LOCK && flags & SQLITE_SHM_EXCLUSIVE != 0;
    if is_of_writer && flags & SQLITE_SHM_UNLOCK != 0 {
        // Before anybody else can have it.
        // SAFETY: SQLite unlocks what it has opened.
        unsafe { gathered(file).unlocked() };
    }
    let outcome = call_behind!(file, xShmLock(first, n, flags), else SQLITE_IOERR_SHMLOCK);
    if is_of_writer && flags & SQLITE_SHM_LOCK != 0 && outcome == SQLITE_OK {
        // SAFETY: as above.
        unsafe { gathered(file).locked() };
    }
    outcome
}

/// # Safety
/// As SQLite calls it.
unsafe extern "C" fn shm_unmap(file: *mut sqlite3_file, delete: c_int) -> c_int {
    // SAFETY: SQLite has opened it.
    unsafe { gathered(file).unlocked() };
    call_behind!(file, xShmUnmap(delete), else SQLITE_OK)
}

/// # Safety
/// As SQLite calls it.
unsafe extern "C" fn shm_barrier(file: *mut sqlite3_file) {
    call_behind!(file, xShmBarrier(), else ());
}

/// A method of a log that first writes what was gathered.
macro_rules! behind_what_was_gathered {
    ($($name:ident => $method:ident ( $($argument:ident : $of:ty),* ), else $missing:expr;)*) => {$(
        /// # Safety
        /// As SQLite calls it.
        unsafe extern "C" fn $name(file: *mut sqlite3_file $(, $argument: $of)*) -> c_int {
            // SAFETY: SQLite calls it for what it has opened.
            if let Err(error) = unsafe { flush(file) } {
                return error;
            }
            call_behind!(file, $method($($argument),*), else $missing)
        }
    )*};
}

/// A method that is left to the file behind.
macro_rules! as_behind {
    ($($name:ident => $method:ident ( $($argument:ident : $of:ty),* ), else $missing:expr;)*) => {$(
        /// # Safety
        /// As SQLite calls it.
        unsafe extern "C" fn $name(file: *mut sqlite3_file $(, $argument: $of)*) -> c_int {
            call_behind!(file, $method($($argument),*), else $missing)
        }
    )*};
}

behind_what_was_gathered! {
    read => xRead(bytes: *mut c_void, len: c_int, at: sqlite3_int64), else SQLITE_IOERR_READ;
    truncate => xTruncate(size: sqlite3_int64), else SQLITE_IOERR_WRITE;
    sync => xSync(flags: c_int), else SQLITE_IOERR_WRITE;
    file_size => xFileSize(size: *mut sqlite3_int64), else SQLITE_IOERR_READ;
    file_control => xFileControl(op: c_int, argument: *mut c_void), else ffi::SQLITE_NOTFOUND;
}

as_behind! {
    close_log => xClose(), else SQLITE_OK; // what it has borrowed goes with its database
    lock => xLock(level: c_int), else SQLITE_OK;
    unlock => xUnlock(level: c_int), else SQLITE_OK;
    check_reserved_lock => xCheckReservedLock(is_taken: *mut c_int), else SQLITE_OK;
    sector_size => xSectorSize(), else 0;
    device_characteristics => xDeviceCharacteristics(), else 0;

    read_database => xRead(bytes: *mut c_void, len: c_int, at: sqlite3_int64), else SQLITE_IOERR_READ;
    write_database => xWrite(bytes: *const c_void, len: c_int, at: sqlite3_int64), else SQLITE_IOERR_WRITE;
    truncate_database => xTruncate(size: sqlite3_int64), else SQLITE_IOERR_WRITE;
    sync_database => xSync(flags: c_int), else SQLITE_IOERR_WRITE;
    file_size_of_database => xFileSize(size: *mut sqlite3_int64), else SQLITE_IOERR_READ;
    file_control_of_database => xFileControl(op: c_int, argument: *mut c_void), else ffi::SQLITE_NOTFOUND;
    shm_map => xShmMap(region: c_int, size: c_int, extend: c_int, memory: *mut *mut c_void), else SQLITE_IOERR_SHMMAP;
    fetch => xFetch(at: sqlite3_int64, len: c_int, memory: *mut *mut c_void), else SQLITE_IOERR_READ;
    unfetch => xUnfetch(at: sqlite3_int64, memory: *mut c_void), else SQLITE_OK;
}
