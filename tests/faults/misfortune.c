/* Loaded before libc into a server under test: lets the n-th call on paths that contain a word fail or hang, and moves the wall clock.
   Steered through the file that MISFORTUNE names, which both sides map; tests/faults/misfortune.py writes it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct fault { char call[16]; char word[224]; int32_t countdown, error, lasting, hits; };
struct control { int64_t clock_s; struct fault faults[4]; };
static struct control none, *control = &none;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("MISFORTUNE");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *map = fd < 0 ? MAP_FAILED : mmap(0, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map != MAP_FAILED) control = map;
    if (fd >= 0) close(fd);
}

static int fails(const char *call, const char *path, int fd) {
    char of_fd[600], link[40];
    for (int i = 0; i < 4; i++) {
        struct fault *f = &control->faults[i];
        if (__atomic_load_n(&f->countdown, __ATOMIC_SEQ_CST) <= 0 || strcmp(f->call, call)) continue;
        if (!path) {
            char *p = link + sizeof link - 1;
            *p = 0;
            int n = fd;
            do *--p = '0' + n % 10; while (n /= 10);
            memcpy(p -= 14, "/proc/self/fd/", 14);
            ssize_t got = readlink(p, of_fd, sizeof of_fd - 1);
            if (got < 0) continue;
            of_fd[got] = 0;
            path = of_fd;
        }
        if (!strstr(path, f->word)) continue;
        int left = f->lasting ? f->countdown - (f->countdown > 1) : __atomic_sub_fetch(&f->countdown, 1, __ATOMIC_SEQ_CST);
        int due = f->lasting ? f->countdown == 1 : left == 0;
        if (f->lasting) f->countdown = left;
        if (!due) continue;
        f->hits++;
        errno = f->error;
        if (f->error >= 0) return 1;
        while (f->error < 0) usleep(10000); /* hangs until it is told to relent, and then does its work */
        return 0;
    }
    return 0;
}

#define REAL(name) static __typeof__(name) *real; if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)
ssize_t write(int fd, const void *b, size_t n) { REAL(write); return fails("write", 0, fd) ? -1 : real(fd, b, n); }
ssize_t writev(int fd, const struct iovec *v, int n) { REAL(writev); return fails("write", 0, fd) ? -1 : real(fd, v, n); }
int fsync(int fd) { REAL(fsync); return fails("fsync", 0, fd) ? -1 : real(fd); }
int rename(const char *a, const char *b) { REAL(rename); return fails("rename", a, -1) ? -1 : real(a, b); }
int unlink(const char *a) { REAL(unlink); return fails("unlink", a, -1) ? -1 : real(a); }
#define READ(name) ssize_t name(int fd, const struct iovec *v, int n, off64_t at) { REAL(name); return fails("read", 0, fd) ? -1 : real(fd, v, n, at); }
READ(preadv) READ(preadv64)
#define READ2(name) ssize_t name(int fd, const struct iovec *v, int n, off64_t at, int flags) { REAL(name); return !(flags & RWF_NOWAIT) && fails("read", 0, fd) ? -1 : real(fd, v, n, at, flags); }
READ2(preadv2) READ2(preadv64v2)
ssize_t pread64(int fd, void *b, size_t n, off64_t at) { REAL(pread64); return fails("read", 0, fd) ? -1 : real(fd, b, n, at); }
ssize_t sendfile(int out, int in, off_t *at, size_t n) { REAL(sendfile); return fails("sendfile", 0, in) ? -1 : real(out, in, at, n); }
ssize_t sendfile64(int out, int in, off64_t *at, size_t n) { REAL(sendfile64); return fails("sendfile", 0, in) ? -1 : real(out, in, at, n); }

static int opened(int (*real)(const char *, int, ...), const char *path, int flags, mode_t mode) {
    return fails(flags & O_CREAT ? "create" : "open", path, -1) ? -1 : real(path, flags, mode);
}
#define OPEN(name) int name(const char *path, int flags, ...) { REAL(name); va_list a; va_start(a, flags); mode_t m = va_arg(a, int); va_end(a); return opened(real, path, flags, m); }
OPEN(open) OPEN(open64)

int clock_gettime(clockid_t clock, struct timespec *t) {
    REAL(clock_gettime);
    int done = real(clock, t);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) t->tv_sec += control->clock_s;
    return done;
}
int gettimeofday(struct timeval *restrict t, void *restrict zone) {
    REAL(gettimeofday);
    int done = real(t, zone);
    t->tv_sec += control->clock_s;
    return done;
}
time_t time(time_t *where) { struct timespec t; clock_gettime(CLOCK_REALTIME, &t); if (where) *where = t.tv_sec; return t.tv_sec; }
