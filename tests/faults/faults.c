// SPDX-License-Identifier: Apache-2.0
// faults.c -- a library for LD_PRELOAD that lets one system call of a program go wrong. Used by tests/program/faults.sh.
//   FAULTS_UNDER=DIR    only calls about files in this directory are counted (needed)
//   FAULTS_CALLS=a,b    only these: open, read, write, fsync, rename, mkdir, unlink, truncate, close (default: all)
//   FAULTS_AT=n         the n-th of them goes wrong, counted from 1
//   FAULTS_ERRNO=code   how: the call fails with this errno; 0: the process is killed before it
//   FAULTS_HALF=1       a write that fails has written half of its bytes
//   FAULTS_LOG=FILE     every counted call is a line in it: number, name, path
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#define REAL(name, result, ...)                                         \
  static result (*real)(__VA_ARGS__);                                   \
  if (!real) real = (result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static atomic_long calls;

static long number_of(const char* name, long otherwise) {
  const char* text = getenv(name);
  return text && *text ? atol(text) : otherwise;
}

// Is `call` in FAULTS_CALLS?
static int is_counted(const char* call) {
  const char* list = getenv("FAULTS_CALLS");
  if (!list || !*list) return 1;
  const size_t length = strlen(call);
  for (const char* at = list; (at = strstr(at, call)); at += length)
    if ((at == list || at[-1] == ',') && (at[length] == ',' || !at[length])) return 1;
  return 0;
}

static int is_under(const char* path) {
  const char* under = getenv("FAULTS_UNDER");
  if (!under || !*under || !path) return 0;
  char whole[8192];
  if (path[0] != '/') {
    if (!getcwd(whole, 4096)) return 0;
    const size_t length = strlen(whole);
    snprintf(whole + length, sizeof whole - length, "/%s", path);
    path = whole;
  }
  return strncmp(path, under, strlen(under)) == 0;
}

// True if this call is to fail; errno is set then. Does not return if the process is to be killed.
static int goes_wrong(const char* call, const char* path) {
  const int before = errno;
  if (!is_under(path) || !is_counted(call)) return errno = before, 0;
  const long number = ++calls;
  const char* log = getenv("FAULTS_LOG");
  if (log) {
    char line[4400];
    const int length = snprintf(line, sizeof line, "%ld %s %.4200s\n", number, call, path);
    const long fd = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd >= 0 && length > 0) syscall(SYS_write, fd, line, (size_t)length), syscall(SYS_close, fd);
  }
  errno = before;
  if (number != number_of("FAULTS_AT", -1)) return 0;
  const long code = number_of("FAULTS_ERRNO", 0);
  if (code == 0) syscall(SYS_kill, getpid(), SIGKILL);
  errno = (int)code;
  return 1;
}

static int fails_on(const char* call, int fd) {
  char name[64], path[4096];
  const int before = errno;
  snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
  const ssize_t length = readlink(name, path, sizeof path - 1);
  errno = before;
  if (length < 0 || path[0] != '/') return 0;  // a pipe or socket has a name of another kind
  path[length] = 0;
  return goes_wrong(call, path);
}

ssize_t write(int fd, const void* bytes, size_t count) {
  REAL("write", ssize_t, int, const void*, size_t);
  if (!fails_on("write", fd)) return real(fd, bytes, count);
  const int code = errno;
  if (number_of("FAULTS_HALF", 0) && count > 1 && real(fd, bytes, count / 2) < 0) return -1;
  errno = code;
  return -1;
}
ssize_t read(int fd, void* bytes, size_t count) {
  REAL("read", ssize_t, int, void*, size_t);
  return fails_on("read", fd) ? -1 : real(fd, bytes, count);
}
ssize_t pread(int fd, void* bytes, size_t count, off_t at) {
  REAL("pread", ssize_t, int, void*, size_t, off_t);
  return fails_on("read", fd) ? -1 : real(fd, bytes, count, at);
}
ssize_t pread64(int fd, void* bytes, size_t count, off64_t at) {
  REAL("pread64", ssize_t, int, void*, size_t, off64_t);
  return fails_on("read", fd) ? -1 : real(fd, bytes, count, at);
}
int fsync(int fd) {
  REAL("fsync", int, int);
  return fails_on("fsync", fd) ? -1 : real(fd);
}
int ftruncate(int fd, off_t bytes) {
  REAL("ftruncate", int, int, off_t);
  return fails_on("truncate", fd) ? -1 : real(fd, bytes);
}
int close(int fd) {
  REAL("close", int, int);
  const int wrong = fails_on("close", fd), code = errno, result = real(fd);
  if (!wrong) return result;
  errno = code;
  return -1;
}
static mode_t mode_of(int flags, va_list rest) {
  return flags & (O_CREAT | O_TMPFILE) ? (mode_t)va_arg(rest, unsigned) : 0;
}
int open(const char* path, int flags, ...) {
  REAL("open", int, const char*, int, ...);
  va_list rest;
  va_start(rest, flags);
  const mode_t mode = mode_of(flags, rest);
  va_end(rest);
  return goes_wrong("open", path) ? -1 : real(path, flags, mode);
}
int open64(const char* path, int flags, ...) {
  REAL("open64", int, const char*, int, ...);
  va_list rest;
  va_start(rest, flags);
  const mode_t mode = mode_of(flags, rest);
  va_end(rest);
  return goes_wrong("open", path) ? -1 : real(path, flags, mode);
}
int rename(const char* from, const char* to) {
  REAL("rename", int, const char*, const char*);
  return goes_wrong("rename", to) ? -1 : real(from, to);
}
int renameat2(int from_at, const char* from, int to_at, const char* to, unsigned flags) {
  REAL("renameat2", int, int, const char*, int, const char*, unsigned);
  return goes_wrong("rename", to) ? -1 : real(from_at, from, to_at, to, flags);
}
int mkdir(const char* path, mode_t mode) {
  REAL("mkdir", int, const char*, mode_t);
  return goes_wrong("mkdir", path) ? -1 : real(path, mode);
}
int unlink(const char* path) {
  REAL("unlink", int, const char*);
  return goes_wrong("unlink", path) ? -1 : real(path);
}
int unlinkat(int fd, const char* path, int flags) {
  REAL("unlinkat", int, int, const char*, int);
  const int wrong = path[0] == '/' || fd == AT_FDCWD ? goes_wrong("unlink", path) : fails_on("unlink", fd);
  return wrong ? -1 : real(fd, path, flags);
}
