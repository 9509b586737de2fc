/* Lets system calls that change files below a folder fail, or end the process there, and logs them.

   Preloaded, it counts what would change something: a file made or opened to be written, bytes
   written, names given, changed and taken away, and what is brought to the disk. The call with the
   number that was asked for fails, or a signal takes its place. tests/faults.py compiles it, says
   what is asked for in a file that all processes of a run share, and makes of the log what a power
   cut would have left: whatever was replaced or removed is kept in a graveyard for that.

       cc -shared -fPIC -O1 -o faults.so faults.c -ldl
       LLX_FAULTS=./control LD_PRELOAD=./faults.so python ... */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* As tests/faults.py packs it. `at`: which call; 0 is none. `what`: an errno, or a signal below 0,
   which goes to `process`; SIGKILL to all of its group. */
struct control {
  int armed, count, at, what, process, graves;
  char root[512], log[512], graveyard[512];
};
static struct control *control;

#define REAL(name) ((__typeof__(&name))real(#name))
static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("LLX_FAULTS");
  int fd = path ? REAL(open)(path, O_RDWR) : -1;
  if (fd < 0) return;
  void *at = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (at != MAP_FAILED) control = at;
  close(fd);
}

/* The whole path of a name, where it lies below the folder that is watched. */
static int watched(int dir, const char *name, char *path) {
  char base[PATH_MAX], link[64];
  ssize_t length;
  if (!control || !control->armed || !name) return 0;
  if (name[0] == '/') {
    snprintf(path, PATH_MAX, "%s", name);
  } else {
    snprintf(link, sizeof link, dir == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", dir);
    if ((length = readlink(link, base, sizeof base - 1)) < 0) return 0;
    base[length] = 0;
    if (snprintf(path, PATH_MAX, "%s/%s", base, name) >= PATH_MAX) return 0;
  }
  return !strncmp(path, control->root, strlen(control->root));
}

static int watched_file(int fd, char *path) {
  char link[64];
  ssize_t length;
  if (!control || !control->armed) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  if ((length = readlink(link, path, PATH_MAX - 1)) < 0) return 0;
  path[length] = 0;
  return !strncmp(path, control->root, strlen(control->root));
}

/* Count a call; nonzero where it is to fail, with errno set. */
static int due(void) {
  int number = __sync_add_and_fetch(&control->count, 1), what = control->what;
  if (number != control->at) return 0;
  if (what > 0) {
    errno = what;
    return 1;
  }
  if (what == -SIGKILL) kill(-control->process, SIGKILL);
  if (what < 0) kill(control->process, -what);
  return 0;
}

static unsigned long inode(const char *path, int parent) {
  char above[PATH_MAX];
  struct stat found;
  snprintf(above, sizeof above, "%s", path);
  if (parent) *(strrchr(above, '/') ?: above) = 0;
  return lstat(above, &found) ? 0 : found.st_ino;
}

/* A line of the log: what, the file's inode, its folder's, names, and the grave of what is gone. */
static void note(const char *what, unsigned long file, unsigned long folder, const char *one,
                 const char *other, const char *grave) {
  char line[4 * PATH_MAX];
  int length, saved = errno, fd = REAL(open)(control->log, O_WRONLY | O_APPEND | O_CREAT, 0600);
  length = snprintf(line, sizeof line, "%s\t%lu\t%lu\t%s\t%s\t%s\n", what, file, folder, one, other,
                    grave);
  if (fd >= 0 && REAL(write)(fd, line, length) < 0) abort();
  close(fd);
  errno = saved;
}

/* Keep what a name stands for, if it is a file: a second name for it elsewhere. */
static void bury(const char *path, char *grave) {
  struct stat found;
  grave[0] = 0;
  if (lstat(path, &found) || !S_ISREG(found.st_mode)) return;
  snprintf(grave, PATH_MAX, "%s/%d", control->graveyard, __sync_add_and_fetch(&control->graves, 1));
  if (link(path, grave)) grave[0] = 0;
}

static int opened(int dir, const char *name, int flags, mode_t mode) {
  char path[PATH_MAX];
  int fd, was, changes = flags & (O_CREAT | O_TRUNC | O_WRONLY | O_RDWR);
  if (!changes || !watched(dir, name, path)) return REAL(openat)(dir, name, flags, mode);
  if (due()) return -1;
  was = inode(path, 0) != 0;
  fd = REAL(openat)(dir, name, flags, mode);
  if (fd >= 0 && !was) note("create", inode(path, 0), inode(path, 1), path, "", "");
  if (fd >= 0 && was && flags & O_TRUNC) note("write", inode(path, 0), 0, path, "", "");
  return fd;
}

#define OPENS(name, parameters, dir, path)                     \
  int name parameters {                                        \
    va_list more;                                              \
    va_start(more, flags);                                     \
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; \
    va_end(more);                                              \
    return opened(dir, path, flags, mode);                     \
  }
OPENS(open, (const char *path, int flags, ...), AT_FDCWD, path)
OPENS(open64, (const char *path, int flags, ...), AT_FDCWD, path)
OPENS(openat, (int dir, const char *path, int flags, ...), dir, path)
OPENS(openat64, (int dir, const char *path, int flags, ...), dir, path)

#define WRITES(kind, name, parameters, arguments)                            \
  kind name parameters {                                                     \
    char path[PATH_MAX];                                                     \
    struct stat found;                                                       \
    int known = watched_file(fd, path);                                      \
    if (known && due()) return -1;                                           \
    kind done = REAL(name) arguments;                                        \
    if (known && done >= 0 && !fstat(fd, &found))                            \
      note("write", found.st_ino, 0, path, "", "");                          \
    return done;                                                             \
  }
WRITES(ssize_t, write, (int fd, const void *data, size_t count), (fd, data, count))
WRITES(ssize_t, pwrite64, (int fd, const void *d, size_t n, off64_t at), (fd, d, n, at))
WRITES(ssize_t, writev, (int fd, const struct iovec *parts, int count), (fd, parts, count))
WRITES(int, ftruncate64, (int fd, off64_t size), (fd, size))

#define SYNCS(name)                                                          \
  int name(int fd) {                                                         \
    char path[PATH_MAX];                                                     \
    struct stat found;                                                       \
    int known = watched_file(fd, path);                                      \
    if (known && due()) return -1;                                           \
    int done = REAL(name)(fd);                                               \
    if (known && !done && !fstat(fd, &found)) note("sync", found.st_ino, 0, path, "", ""); \
    return done;                                                             \
  }
SYNCS(fsync)
SYNCS(fdatasync)

static int renamed(int from, const char *one, int to, const char *other, unsigned flags) {
  char path[PATH_MAX], target[PATH_MAX], grave[PATH_MAX];
  unsigned long folder, above;
  int known = watched(from, one, path) && watched(to, other, target);
  if (!known) return REAL(renameat2)(from, one, to, other, flags);
  if (due()) return -1;
  if (flags) grave[0] = 0;
  else bury(target, grave);
  folder = inode(path, 1), above = inode(target, 1);
  int done = REAL(renameat2)(from, one, to, other, flags);
  if (!done) note(flags ? "exchange" : "rename", folder, above, path, target, grave);
  return done;
}
int rename(const char *one, const char *other) {
  return renamed(AT_FDCWD, one, AT_FDCWD, other, 0);
}
int renameat(int from, const char *one, int to, const char *other) {
  return renamed(from, one, to, other, 0);
}
int renameat2(int from, const char *one, int to, const char *other, unsigned flags) {
  return renamed(from, one, to, other, flags);
}

int unlinkat(int dir, const char *name, int flags) {
  char path[PATH_MAX], grave[PATH_MAX];
  if (!watched(dir, name, path)) return REAL(unlinkat)(dir, name, flags);
  if (due()) return -1;
  bury(path, grave);
  unsigned long folder = inode(path, 1);
  int done = REAL(unlinkat)(dir, name, flags);
  if (!done) note(flags & AT_REMOVEDIR ? "rmdir" : "unlink", 0, folder, path, "", grave);
  return done;
}
int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }

int mkdirat(int dir, const char *name, mode_t mode) {
  char path[PATH_MAX];
  if (!watched(dir, name, path)) return REAL(mkdirat)(dir, name, mode);
  if (due()) return -1;
  int done = REAL(mkdirat)(dir, name, mode);
  if (!done) note("mkdir", 0, inode(path, 1), path, "", "");
  return done;
}
int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }
