/* A disk between a gate and the real one, preloaded into the gate: it writes down what is written and synced, and fails what a test
 * wants to fail. Only files below FENCEGATE_DISK_DIR.
 *
 * FENCEGATE_DISK_LOG: where each call is written down, for tests/it/disk/image.rs.
 * FENCEGATE_DISK_PLAN: a file that is mapped: what is to fail (struct plan), changed by the test while the gate runs. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define FILES 4096
#define KILL 9999

enum { WRITE = 1, SYNC = 2, TRUNCATE = 4, MAKE = 8 };

struct plan {
    volatile uint32_t armed, ops, nth, error, sticky, torn, seen, hits;
    char match[96];
};

/* One call: what, on which file, where, and how many bytes follow. */
struct record {
    uint8_t op, pad[7];
    uint64_t number, at, len;
};

struct file {
    uint64_t number;
    char *path;
};

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static struct file files[FILES];
static const char *below;
static int logged = -1;
static struct plan *plan;

#define REAL(type, name, ...) \
    static type (*real_##name)(__VA_ARGS__); \
    if (!real_##name) real_##name = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

static ssize_t plain_write(int fd, const void *bytes, size_t len) {
    REAL(ssize_t, write, int, const void *, size_t);
    return real_write(fd, bytes, len);
}

static ssize_t plain_pwrite(int fd, const void *bytes, size_t len, off_t at) {
    REAL(ssize_t, pwrite64, int, const void *, size_t, off_t);
    return real_pwrite64(fd, bytes, len, at);
}

static int plain_open(const char *path, int flags, mode_t mode) {
    REAL(int, open64, const char *, int, ...);
    return real_open64(path, flags, mode);
}

__attribute__((constructor)) static void begin(void) {
    const char *log = getenv("FENCEGATE_DISK_LOG"), *plan_file = getenv("FENCEGATE_DISK_PLAN");
    below = getenv("FENCEGATE_DISK_DIR");
    if (log) logged = plain_open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (plan_file) {
        int fd = plain_open(plan_file, O_RDWR | O_CLOEXEC, 0);
        void *map = mmap(NULL, sizeof(struct plan), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (fd < 0 || map == MAP_FAILED) abort();
        plan = map;
        close(fd);
    }
}

static void note(char op, uint64_t number, uint64_t at, const void *bytes, size_t len) {
    if (logged < 0) return;
    struct record record = { .op = (uint8_t)op, .number = number, .at = at, .len = len };
    struct iovec parts[2] = { { &record, sizeof record }, { (void *)bytes, len } };
    if (writev(logged, parts, 2) != (ssize_t)(sizeof record + len)) abort();
}

static void note_path(char op, uint64_t number, const char *path) { note(op, number, 0, path, strlen(path)); }

static struct file *known(int fd) { return fd >= 0 && fd < FILES && files[fd].path ? &files[fd] : NULL; }

static int ends(const char *path, const char *with) {
    size_t len = strlen(path), end = strlen(with);
    return len >= end && !strcmp(path + len - end, with);
}

/* Whether this call is to fail. The lock is held. */
static int fails(uint32_t op, const char *path) {
    if (!plan || !plan->armed || !(plan->ops & op) || !ends(path, plan->match)) return 0;
    uint32_t seen = ++plan->seen;
    if (seen != plan->nth && !(plan->sticky && seen > plan->nth)) return 0;
    plan->hits++;
    if (plan->error == KILL) {
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
    errno = (int)plan->error;
    return 1;
}

/* A relative path is one of the working directory's, which the gate doesn't change. */
static char *whole(const char *path) {
    char full[8192], folder[4096];
    if (path[0] == '/' || !getcwd(folder, sizeof folder)) return strdup(path);
    snprintf(full, sizeof full, "%s/%s", folder, path);
    return strdup(full);
}

static int is_below(const char *path) { return below && strncmp(path, below, strlen(below)) == 0; }

static int opened(const char *given, int flags, mode_t mode) {
    char *path = whole(given);
    if (!is_below(path)) {
        free(path);
        return plain_open(given, flags, mode);
    }
    pthread_mutex_lock(&turn);
    struct stat found;
    int is_new = (flags & O_CREAT) && stat(path, &found) != 0;
    int fd = is_new && fails(MAKE, path) ? -1 : plain_open(path, flags, mode);
    int error = errno;
    if (fd >= 0 && fd < FILES && fstat(fd, &found) == 0) {
        free(files[fd].path);
        files[fd] = (struct file){ .number = found.st_ino, .path = path };
        if (is_new) note_path('c', found.st_ino, path);
        if (!is_new && (flags & O_TRUNC)) note('t', found.st_ino, 0, NULL, 0);
    } else {
        free(path);
    }
    pthread_mutex_unlock(&turn);
    errno = error;
    return fd;
}

static mode_t mode_of(int flags, va_list rest) { return (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0; }

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = mode_of(flags, rest); \
        va_end(rest); \
        return opened(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int at, const char *path, int flags, ...) { \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = mode_of(flags, rest); \
        va_end(rest); \
        if (at == AT_FDCWD || path[0] == '/') return opened(path, flags, mode); \
        REAL(int, name, int, const char *, int, ...); \
        return real_##name(at, path, flags, mode); \
    }
OPENAT(openat)
OPENAT(openat64)

int close(int fd) {
    REAL(int, close, int);
    struct file *file = known(fd);
    if (file) {
        pthread_mutex_lock(&turn);
        free(file->path);
        file->path = NULL;
        pthread_mutex_unlock(&turn);
    }
    return real_close(fd);
}

/* Writes, or fails: then, if the plan says so, with a part of it written. */
static ssize_t written(int fd, struct file *file, const void *bytes, size_t len, off_t at, int moves) {
    pthread_mutex_lock(&turn);
    if (moves) at = lseek(fd, 0, SEEK_CUR);
    ssize_t done;
    int error;
    if (fails(WRITE, file->path)) {
        error = errno;
        size_t part = plan->torn ? len / 2 : 0;
        if (part && plain_pwrite(fd, bytes, part, at) == (ssize_t)part) note('w', file->number, (uint64_t)at, bytes, part);
        done = -1;
    } else {
        done = moves ? plain_write(fd, bytes, len) : plain_pwrite(fd, bytes, len, at);
        error = errno;
        if (done > 0) note('w', file->number, (uint64_t)at, bytes, (size_t)done);
    }
    pthread_mutex_unlock(&turn);
    errno = error;
    return done;
}

ssize_t write(int fd, const void *bytes, size_t len) {
    struct file *file = known(fd);
    return file ? written(fd, file, bytes, len, 0, 1) : plain_write(fd, bytes, len);
}

ssize_t pwrite(int fd, const void *bytes, size_t len, off_t at) {
    struct file *file = known(fd);
    return file ? written(fd, file, bytes, len, at, 0) : plain_pwrite(fd, bytes, len, at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t len, off_t at) { return pwrite(fd, bytes, len, at); }

static int truncated(int fd, off_t len) {
    REAL(int, ftruncate64, int, off_t);
    struct file *file = known(fd);
    if (!file) return real_ftruncate64(fd, len);
    pthread_mutex_lock(&turn);
    int result = fails(TRUNCATE, file->path) ? -1 : real_ftruncate64(fd, len);
    int error = errno;
    if (result == 0) note('t', file->number, (uint64_t)len, NULL, 0);
    pthread_mutex_unlock(&turn);
    errno = error;
    return result;
}

int ftruncate(int fd, off_t len) { return truncated(fd, len); }
int ftruncate64(int fd, off_t len) { return truncated(fd, len); }

/* What was changed through a mapping is on disk, too, once its file is synced. */
static void note_mapped(int fd, struct file *file) {
    struct stat found;
    if (!ends(file->path, ".journal") || fstat(fd, &found)) return;
    char *bytes = malloc((size_t)found.st_size + 1);
    ssize_t read = pread(fd, bytes, (size_t)found.st_size, 0);
    if (read > 0) note('w', file->number, 0, bytes, (size_t)read);
    free(bytes);
}

/* A sync that fails takes what was to be synced for written: the kernel forgets that it was not. */
static int synced(int fd, int (*really)(int)) {
    struct file *file = known(fd);
    if (!file) return really(fd);
    pthread_mutex_lock(&turn);
    uint64_t number = file->number;
    char *path = strdup(file->path);
    note_mapped(fd, file);
    int is_failing = fails(SYNC, path);
    int error = errno;
    note_path('s', number, path);
    pthread_mutex_unlock(&turn);
    int result = is_failing ? -1 : really(fd);
    if (!is_failing) error = errno;
    pthread_mutex_lock(&turn);
    note_path(result == 0 ? 'e' : 'f', number, path);
    pthread_mutex_unlock(&turn);
    free(path);
    errno = error;
    return result;
}

int fsync(int fd) {
    REAL(int, fsync, int);
    return synced(fd, real_fsync);
}

int fdatasync(int fd) {
    REAL(int, fdatasync, int);
    return synced(fd, real_fdatasync);
}

int unlink(const char *given) {
    REAL(int, unlink, const char *);
    char *path = whole(given);
    pthread_mutex_lock(&turn);
    int result = real_unlink(given);
    int error = errno;
    if (result == 0 && is_below(path)) note_path('u', 0, path);
    pthread_mutex_unlock(&turn);
    free(path);
    errno = error;
    return result;
}

/* Both names of a file: the one that it had, a line's end, the one that it has. */
static void note_paths(char op, uint64_t number, const char *from, const char *to) {
    char both[8192];
    int len = snprintf(both, sizeof both, "%s\n%s", from, to);
    if (len < 0 || (size_t)len >= sizeof both) abort();
    note(op, number, 0, both, (size_t)len);
}

static int named(char op, const char *given_from, const char *given_to, int (*really)(const char *, const char *)) {
    char *from = whole(given_from), *to = whole(given_to);
    pthread_mutex_lock(&turn);
    int result = is_below(to) && fails(MAKE, to) ? -1 : really(given_from, given_to);
    int error = errno;
    struct stat found;
    if (result == 0 && is_below(to) && stat(to, &found) == 0) note_paths(op, found.st_ino, from, to);
    pthread_mutex_unlock(&turn);
    free(from);
    free(to);
    errno = error;
    return result;
}

int rename(const char *from, const char *to) {
    REAL(int, rename, const char *, const char *);
    return named('r', from, to, real_rename);
}

int link(const char *from, const char *to) {
    REAL(int, link, const char *, const char *);
    return named('l', from, to, real_link);
}

int linkat(int at, const char *from, int other, const char *to, int flags) {
    REAL(int, linkat, int, const char *, int, const char *, int);
    return at == AT_FDCWD && other == AT_FDCWD && !flags ? link(from, to) : real_linkat(at, from, other, to, flags);
}

/* Whoever copies files by these writes them itself then. */
ssize_t copy_file_range(int from, off64_t *at, int to, off64_t *other, size_t len, unsigned flags) {
    REAL(ssize_t, copy_file_range, int, off64_t *, int, off64_t *, size_t, unsigned);
    if (!known(to)) return real_copy_file_range(from, at, to, other, len, flags);
    errno = ENOSYS;
    return -1;
}

ssize_t sendfile64(int to, int from, off64_t *at, size_t len) {
    REAL(ssize_t, sendfile64, int, int, off64_t *, size_t);
    if (!known(to)) return real_sendfile64(to, from, at, len);
    errno = ENOSYS;
    return -1;
}

int mkdir(const char *given, mode_t mode) {
    REAL(int, mkdir, const char *, mode_t);
    char *path = whole(given);
    pthread_mutex_lock(&turn);
    int result = is_below(path) && fails(MAKE, path) ? -1 : real_mkdir(given, mode);
    int error = errno;
    if (result == 0 && is_below(path)) note_path('m', 0, path);
    pthread_mutex_unlock(&turn);
    free(path);
    errno = error;
    return result;
}
