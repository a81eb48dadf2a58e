/* Loaded into a daemon with LD_PRELOAD: kills it before or after the n-th call of a chosen kind.
 *
 * The daemon knows nothing of it. What to count and when to strike stands in a small file that the
 * test maps too (CRASH_CONTROL), so a running daemon can be armed at any time. Calls are told apart
 * by the paths they touch: below CRASH_SHARE (the shared folder) or CRASH_STATE (its state files). Where an
 * app's database is shared, CRASH_DATABASE is its path, and CRASH_SHARE the folder that it lies in.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

enum { STAGE, SYNC, EXCHANGE, RECORD, TREE, PAGES, FLUSH, CLEAR, SEND, KINDS };

struct control {
    _Atomic uint32_t armed;      /* 0: count nothing */
    uint32_t mask;               /* kinds that may strike, one bit each */
    uint32_t at;                 /* strike at this call of those kinds; 0: only count */
    uint32_t after;              /* once the call is done, not before */
    _Atomic uint32_t fired;
    _Atomic uint32_t matched;
    _Atomic uint32_t counts[KINDS];
    char what[480];
};

static struct control *control;
static const char *share, *state, *database;
static size_t share_length, state_length, database_length;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CRASH_CONTROL");
    share = getenv("CRASH_SHARE");
    state = getenv("CRASH_STATE");
    database = getenv("CRASH_DATABASE");
    if (!path || !share || !state) return;
    share_length = strlen(share);
    state_length = strlen(state);
    database_length = database ? strlen(database) : 0;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    void *mapped = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped != MAP_FAILED) control = mapped;
    close(fd);
}

static _Noreturn void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* Count a call; returns whether to die once it is done, and does not return if before. */
static int strike(int kind, const char *call, const char *path) {
    atomic_fetch_add(&control->counts[kind], 1);
    if (!(control->mask >> kind & 1)) return 0;
    if (atomic_fetch_add(&control->matched, 1) + 1 != control->at) return 0;
    snprintf(control->what, sizeof control->what, "%s %s", call, path);
    atomic_store(&control->fired, 1);
    if (control->after) return 1;
    die();
}

static int is_below(const char *path, const char *top, size_t length) {
    return strncmp(path, top, length) == 0 && (path[length] == '/' || path[length] == 0);
}

/* The database, or what SQLite puts beside it: journal, WAL, index of that. */
static int is_of_database(const char *path) {
    if (!database || strncmp(path, database, database_length) != 0) return 0;
    return path[database_length] == 0 || path[database_length] == '-';
}

static int path_of(int fd, char *path, size_t size) {
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, size - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return 1;
}

static int armed(void) { return control && atomic_load(&control->armed); }

/* Something sent to another device: TLS writes into its socket. */
static int on_send(int fd, const char *call) {
    int family = AF_UNSPEC;
    socklen_t size = sizeof family;
    getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &size);
    return family == AF_INET || family == AF_INET6 ? strike(SEND, call, "to a peer") : 0;
}

/* A write into, or a cut of, an opened file. */
static int on_write(int fd, const char *call) {
    char path[4200];
    int before = errno, result = 0;
    if (!armed() || !path_of(fd, path, sizeof path)) return 0;
    if (is_below(path, state, state_length)) result = strike(RECORD, call, path);
    else if (is_of_database(path)) result = strike(strcmp(call, "ftruncate") ? PAGES : CLEAR, call, path);
    else if (is_below(path, share, share_length)) result = strike(STAGE, call, path);
    else if (strncmp(path, "socket:", 7) == 0) result = on_send(fd, call);
    errno = before;
    return result;
}

static int on_sync(int fd, const char *call) {
    char path[4200];
    int before = errno, result = 0;
    if (!armed() || !path_of(fd, path, sizeof path)) return 0;
    if (is_below(path, state, state_length)) result = strike(RECORD, call, path);
    else if (is_below(path, share, share_length)) result = strike(database ? FLUSH : SYNC, call, path);
    errno = before;
    return result;
}

/* A call on a name in an opened directory, or on a path. */
static int on_name(int kind, int directory, const char *name, const char *call) {
    char path[8400];
    int before = errno, result = 0;
    if (!armed() || !name) return 0;
    if (name[0] == '/') snprintf(path, sizeof path, "%s", name);
    else if (directory != AT_FDCWD && path_of(directory, path, 4200)) {
        size_t length = strlen(path);
        snprintf(path + length, sizeof path - length, "/%s", name);
    } else return 0;
    if (is_of_database(path)) result = strike(CLEAR, call, path);
    else if (is_below(path, share, share_length)) result = strike(kind, call, path);
    errno = before;
    return result;
}

static int on_opened(int fd, const char *call) {
    char path[4200];
    int before = errno, result = 0;
    if (!armed() || !path_of(fd, path, sizeof path)) return 0;
    if (is_below(path, share, share_length)) result = strike(TREE, call, path);
    errno = before;
    return result;
}

#define WRAP(TYPE, NAME, PARAMETERS, ARGUMENTS, LOOK)                              \
    TYPE NAME PARAMETERS {                                                         \
        static TYPE(*real) PARAMETERS;                                             \
        if (!real) real = (TYPE(*) PARAMETERS)dlsym(RTLD_NEXT, #NAME);             \
        int doomed = LOOK;                                                         \
        TYPE result = real ARGUMENTS;                                              \
        if (doomed) die();                                                         \
        return result;                                                             \
    }

WRAP(ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size), on_write(fd, "write"))
WRAP(ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at), on_write(fd, "pwrite"))
WRAP(ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at), on_write(fd, "pwrite"))
WRAP(int, ftruncate, (int fd, off_t size), (fd, size), on_write(fd, "ftruncate"))
WRAP(int, ftruncate64, (int fd, off64_t size), (fd, size), on_write(fd, "ftruncate"))
WRAP(ssize_t, copy_file_range, (int in, off64_t *from, int out, off64_t *to, size_t size, unsigned flags),
     (in, from, out, to, size, flags), on_write(out, "copy_file_range"))

WRAP(int, fsync, (int fd), (fd), on_sync(fd, "fsync"))
WRAP(int, fdatasync, (int fd), (fd), on_sync(fd, "fdatasync"))
WRAP(int, syncfs, (int fd), (fd), on_sync(fd, "syncfs"))

WRAP(int, rename, (const char *old, const char *new), (old, new), on_name(EXCHANGE, AT_FDCWD, new, "rename"))
WRAP(int, renameat, (int from, const char *old, int to, const char *new), (from, old, to, new),
     on_name(EXCHANGE, to, new, "renameat"))
WRAP(int, renameat2, (int from, const char *old, int to, const char *new, unsigned flags),
     (from, old, to, new, flags), on_name(EXCHANGE, to, new, flags & RENAME_EXCHANGE ? "exchange" : "renameat2"))

WRAP(int, mkdir, (const char *path, mode_t mode), (path, mode), on_name(TREE, AT_FDCWD, path, "mkdir"))
WRAP(int, mkdirat, (int fd, const char *path, mode_t mode), (fd, path, mode), on_name(TREE, fd, path, "mkdirat"))
WRAP(int, unlink, (const char *path), (path), on_name(TREE, AT_FDCWD, path, "unlink"))
WRAP(int, rmdir, (const char *path), (path), on_name(TREE, AT_FDCWD, path, "rmdir"))
WRAP(int, unlinkat, (int fd, const char *path, int flags), (fd, path, flags), on_name(TREE, fd, path, "unlinkat"))
WRAP(int, symlinkat, (const char *target, int fd, const char *path), (target, fd, path),
     on_name(TREE, fd, path, "symlinkat"))
WRAP(int, fchmodat, (int fd, const char *path, mode_t mode, int flags), (fd, path, mode, flags),
     on_name(TREE, fd, path, "fchmodat"))
WRAP(int, fchmod, (int fd, mode_t mode), (fd, mode), on_opened(fd, "fchmod"))
WRAP(int, utimensat, (int fd, const char *path, const struct timespec times[2], int flags), (fd, path, times, flags),
     on_name(TREE, fd, path, "utimensat"))
WRAP(int, futimens, (int fd, const struct timespec times[2]), (fd, times), on_opened(fd, "futimens"))

/* The daemon makes calls that Python has no function for through this one; renameat2 may be among them. */
long syscall(long number, ...) {
    static long (*real)(long, ...);
    if (!real) real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    long a[6];
    va_list arguments;
    va_start(arguments, number);
    for (int i = 0; i < 6; i++) a[i] = va_arg(arguments, long);
    va_end(arguments);
    int doomed = 0;
    if (number == SYS_renameat2) doomed = on_name(EXCHANGE, (int)a[2], (const char *)a[3], "renameat2");
    else if (number == SYS_syncfs) doomed = on_sync((int)a[0], "syncfs");
    long result = real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    if (doomed) die();
    return result;
}
