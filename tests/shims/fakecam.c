/* A camera that is not there: answers V4L2 for /dev/video0 inside one process. For tests; preload it.
 *
 * FAKECAM_DIR holds `frames.yuyv` (pictures of FAKECAM_WIDTH x FAKECAM_HEIGHT, YUYV, one after the other, shown
 * in turn at FAKECAM_RATE) and, when a test writes it, `fault`: busy, absent, unplug, freeze or format.
 * With FAKECAM_MJPEG=1 a file `frame.jpg` is offered as MJPG at 1280x720 as well.
 * Waiting works through a timerfd, so poll, select and blocking reads behave as with a real driver.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define BUFFERS 4
#define DEVICE "/dev/video0"
#define LARGEST (1920 * 1080 * 2)

static int camera = -1, queued[BUFFERS], next_buffer, streaming, mjpeg;
static unsigned sequence;
static unsigned char *memory[BUFFERS], *frames;
static size_t frames_size;
static int width = 640, height = 480, rate = 30;

static int setting(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}

static const char *path_of(const char *name) {
    static char path[4096];
    snprintf(path, sizeof path, "%s/%s", getenv("FAKECAM_DIR") ? getenv("FAKECAM_DIR") : ".", name);
    return path;
}

static int (*real_open(void))(const char *, int, ...) {
    static int (*function)(const char *, int, ...);
    if (!function) function = dlsym(RTLD_NEXT, "open");
    return function;
}

static int fault(const char *kind) {
    char text[32] = "";
    int fd = real_open()(path_of("fault"), O_RDONLY);
    if (fd < 0) return 0;
    ssize_t count = read(fd, text, sizeof text - 1);
    close(fd);
    return count > 0 && !strncmp(text, kind, strlen(kind));
}

static void load(const char *name) {
    FILE *file = fopen(path_of(name), "rb");
    free(frames);
    frames = NULL, frames_size = 0;
    if (!file) return;
    fseek(file, 0, SEEK_END), frames_size = ftell(file), rewind(file);
    frames = malloc(frames_size);
    if (fread(frames, 1, frames_size, file) != frames_size) frames_size = 0;
    fclose(file);
}

static int open_camera(int flags) {
    if (fault("absent")) return errno = ENOENT, -1;
    if (fault("denied")) return errno = EACCES, -1;
    width = setting("FAKECAM_WIDTH", 640), height = setting("FAKECAM_HEIGHT", 480), rate = setting("FAKECAM_RATE", 30);
    camera = timerfd_create(CLOCK_MONOTONIC, flags & O_NONBLOCK ? TFD_NONBLOCK : 0);
    mjpeg = streaming = sequence = 0;
    return camera;
}

#define OPENER(name)                                                                                                   \
    int name(const char *path, int flags, ...) {                                                                       \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, int) : 0;                                              \
        va_end(rest);                                                                                                  \
        if (!strcmp(path, DEVICE)) return open_camera(flags);                                                          \
        return real_open()(path, flags, mode);                                                                         \
    }
OPENER(open)
OPENER(open64)

int close(int fd) {
    static int (*real)(int);
    if (!real) real = dlsym(RTLD_NEXT, "close");
    if (fd >= 0 && fd == camera) camera = -1;
    return real(fd);
}

static void arm(int on) {
    struct itimerspec every = {0};
    if (on) every.it_interval.tv_nsec = every.it_value.tv_nsec = 1000000000L / rate;
    timerfd_settime(camera, 0, &every, NULL);
}

static unsigned picture_size(void) { return mjpeg ? (unsigned)frames_size : (unsigned)(width * height * 2); }

static void describe(struct v4l2_format *format) {
    struct v4l2_pix_format *pixels = &format->fmt.pix;
    int wants_mjpeg = pixels->pixelformat == V4L2_PIX_FMT_MJPEG && setting("FAKECAM_MJPEG", 0);
    mjpeg = wants_mjpeg;
    pixels->width = mjpeg ? 1280 : width, pixels->height = mjpeg ? 720 : height;
    pixels->pixelformat = mjpeg ? V4L2_PIX_FMT_MJPEG : V4L2_PIX_FMT_YUYV;
    pixels->field = V4L2_FIELD_NONE, pixels->bytesperline = mjpeg ? 0 : width * 2;
    pixels->sizeimage = mjpeg ? 1280 * 720 * 2 : width * height * 2;
}

static int take(struct v4l2_buffer *buffer) {
    uint64_t expirations;
    if (fault("freeze")) {
        arm(0);
        if (read(camera, &expirations, 8) == 8) return errno = EAGAIN, -1;
        return -1; /* a blocking read never comes back */
    }
    if (read(camera, &expirations, 8) != 8) return -1;
    if (fault("unplug")) return errno = ENODEV, -1;
    for (int tries = 0; tries < BUFFERS && !queued[next_buffer]; tries++) next_buffer = (next_buffer + 1) % BUFFERS;
    unsigned size = picture_size(), count = mjpeg ? 1 : frames_size / size;
    if (count) memcpy(memory[next_buffer], frames + (size_t)(mjpeg ? 0 : sequence % count) * size, size);
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    buffer->index = next_buffer, buffer->bytesused = size, buffer->field = V4L2_FIELD_NONE;
    buffer->flags = V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC | V4L2_BUF_FLAG_DONE;
    buffer->timestamp.tv_sec = now.tv_sec, buffer->timestamp.tv_usec = now.tv_nsec / 1000;
    buffer->sequence = sequence++, buffer->length = LARGEST;
    queued[next_buffer] = 0;
    return 0;
}

static int answer(unsigned long request, void *argument) {
    if (fault("unplug")) return errno = ENODEV, -1;
    switch (request) {
    case VIDIOC_QUERYCAP: {
        struct v4l2_capability *able = argument;
        memset(able, 0, sizeof *able);
        strcpy((char *)able->driver, "fakecam"), strcpy((char *)able->card, "Fake Camera");
        able->capabilities = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING | V4L2_CAP_DEVICE_CAPS;
        able->device_caps = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING;
        return 0;
    }
    case VIDIOC_ENUM_FMT: {
        struct v4l2_fmtdesc *format = argument;
        if (format->index > (unsigned)(setting("FAKECAM_MJPEG", 0) ? 1 : 0)) return errno = EINVAL, -1;
        format->flags = format->index ? V4L2_FMT_FLAG_COMPRESSED : 0;
        format->pixelformat = format->index ? V4L2_PIX_FMT_MJPEG : V4L2_PIX_FMT_YUYV;
        strcpy((char *)format->description, format->index ? "Motion-JPEG" : "YUYV 4:2:2");
        return 0;
    }
    case VIDIOC_ENUM_FRAMESIZES: {
        struct v4l2_frmsizeenum *size = argument;
        int jpeg = size->pixel_format == V4L2_PIX_FMT_MJPEG;
        if (size->index) return errno = EINVAL, -1;
        size->type = V4L2_FRMSIZE_TYPE_DISCRETE;
        size->discrete.width = jpeg ? 1280 : setting("FAKECAM_WIDTH", 640);
        size->discrete.height = jpeg ? 720 : setting("FAKECAM_HEIGHT", 480);
        return 0;
    }
    case VIDIOC_ENUM_FRAMEINTERVALS: {
        struct v4l2_frmivalenum *interval = argument;
        if (interval->index) return errno = EINVAL, -1;
        interval->type = V4L2_FRMIVAL_TYPE_DISCRETE;
        interval->discrete.numerator = 1, interval->discrete.denominator = setting("FAKECAM_RATE", 30);
        return 0;
    }
    case VIDIOC_S_FMT:
        if (fault("busy")) return errno = EBUSY, -1;
        if (fault("format")) return errno = EINVAL, -1; /* fall through */
    case VIDIOC_G_FMT:
    case VIDIOC_TRY_FMT:
        describe(argument);
        return 0;
    case VIDIOC_S_PARM:
    case VIDIOC_G_PARM: {
        struct v4l2_streamparm *parameters = argument;
        parameters->parm.capture.capability = V4L2_CAP_TIMEPERFRAME;
        parameters->parm.capture.timeperframe.numerator = 1;
        parameters->parm.capture.timeperframe.denominator = rate;
        return 0;
    }
    case VIDIOC_REQBUFS: {
        struct v4l2_requestbuffers *wanted = argument;
        if (fault("busy")) return errno = EBUSY, -1;
        if (wanted->count > BUFFERS) wanted->count = BUFFERS;
        load(mjpeg ? "frame.jpg" : "frames.yuyv");
        return 0;
    }
    case VIDIOC_QUERYBUF: {
        struct v4l2_buffer *buffer = argument;
        buffer->length = LARGEST, buffer->m.offset = buffer->index << 24;
        return 0;
    }
    case VIDIOC_QBUF:
        queued[((struct v4l2_buffer *)argument)->index] = 1;
        return 0;
    case VIDIOC_DQBUF:
        return take(argument);
    case VIDIOC_STREAMON:
        arm(1);
        return 0;
    case VIDIOC_STREAMOFF:
        arm(0);
        return 0;
    case VIDIOC_G_INPUT:
        *(int *)argument = 0;
        return 0;
    case VIDIOC_S_INPUT:
        return 0;
    case VIDIOC_ENUMINPUT: {
        struct v4l2_input *input = argument;
        if (input->index) return errno = EINVAL, -1;
        memset(input, 0, sizeof *input);
        input->type = V4L2_INPUT_TYPE_CAMERA, strcpy((char *)input->name, "Fake");
        return 0;
    }
    default:
        return errno = ENOTTY, -1;
    }
}

int ioctl(int fd, unsigned long request, ...) {
    static int (*real)(int, unsigned long, ...);
    va_list rest;
    va_start(rest, request);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    if (!real) real = dlsym(RTLD_NEXT, "ioctl");
    /* Python hands the request over sign-extended */
    if (fd >= 0 && fd == camera) return answer((uint32_t)request, argument);
    return real(fd, request, argument);
}

#define MAPPER(name, offset_type)                                                                                      \
    void *name(void *at, size_t length, int protection, int flags, int fd, offset_type offset) {                       \
        static void *(*real)(void *, size_t, int, int, int, offset_type);                                              \
        if (!real) real = dlsym(RTLD_NEXT, #name);                                                                     \
        if (fd < 0 || fd != camera) return real(at, length, protection, flags, fd, offset);                            \
        return memory[(offset >> 24) % BUFFERS] =                                                                      \
                   real(at, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);                       \
    }
MAPPER(mmap, off_t)
MAPPER(mmap64, off64_t)

/* The listing of /dev shows the camera too, after everything else. */
static DIR *listed;
static int shown;

DIR *opendir(const char *path) {
    static DIR *(*real)(const char *);
    if (!real) real = dlsym(RTLD_NEXT, "opendir");
    DIR *folder = real(path);
    if (folder && !strcmp(path, "/dev") && !fault("absent")) listed = folder, shown = 0;
    return folder;
}

#define LISTER(name, type)                                                                                             \
    struct type *name(DIR *folder) {                                                                                   \
        static struct type *(*real)(DIR *), extra;                                                                     \
        if (!real) real = dlsym(RTLD_NEXT, #name);                                                                     \
        struct type *entry = real(folder);                                                                             \
        if (entry || folder != listed || shown) return entry;                                                          \
        shown = 1, extra.d_type = DT_CHR;                                                                              \
        strcpy(extra.d_name, "video0");                                                                                \
        return &extra;                                                                                                 \
    }
LISTER(readdir, dirent)
LISTER(readdir64, dirent64)
