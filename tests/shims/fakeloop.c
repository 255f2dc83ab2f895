/* A v4l2loopback device that is not there: /dev/video7 takes pictures inside one process. For tests; preload it.
 *
 * What is written goes to the file FAKELOOP_FILE, one picture after the other; the format that was set goes to
 * FAKELOOP_FILE.format as "fourcc width height". With FAKELOOP_FAULT=busy the format is refused.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEVICE "/dev/video7"

static int device = -1;

static int (*real_open(void))(const char *, int, ...) {
    static int (*function)(const char *, int, ...);
    if (!function) function = dlsym(RTLD_NEXT, "open");
    return function;
}

#define OPENER(name)                                                                                                   \
    int name(const char *path, int flags, ...) {                                                                       \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, int) : 0;                                              \
        va_end(rest);                                                                                                  \
        if (strcmp(path, DEVICE)) return real_open()(path, flags, mode);                                               \
        return device = real_open()(getenv("FAKELOOP_FILE"), O_WRONLY | O_CREAT | O_TRUNC, 0600);                      \
    }
OPENER(open)
OPENER(open64)

static int set_format(struct v4l2_format *format) {
    struct v4l2_pix_format *pixels = &format->fmt.pix;
    const char *fault = getenv("FAKELOOP_FAULT");
    char path[4096];
    if (fault && !strcmp(fault, "busy")) return errno = EBUSY, -1;
    snprintf(path, sizeof path, "%s.format", getenv("FAKELOOP_FILE"));
    FILE *file = fopen(path, "w");
    fprintf(file, "%.4s %u %u\n", (char *)&pixels->pixelformat, pixels->width, pixels->height);
    fclose(file);
    return 0;
}

int ioctl(int fd, unsigned long request, ...) {
    static int (*real)(int, unsigned long, ...);
    va_list rest;
    va_start(rest, request);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    if (!real) real = dlsym(RTLD_NEXT, "ioctl");
    if (fd < 0 || fd != device) return real(fd, request, argument);
    if ((uint32_t)request == VIDIOC_QUERYCAP) {
        struct v4l2_capability *able = argument;
        memset(able, 0, sizeof *able);
        strcpy((char *)able->driver, "v4l2 loopback"), strcpy((char *)able->card, "Fake Loopback");
        able->capabilities = V4L2_CAP_VIDEO_OUTPUT;
        return 0;
    }
    if ((uint32_t)request == VIDIOC_S_FMT) return set_format(argument);
    return errno = ENOTTY, -1;
}
