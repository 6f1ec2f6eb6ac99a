/* A small NVML for tests. What it answers is in the file that FAKE_NVML names, read anew at each call, one line each:
 *
 *   count 2           how many GPUs there are
 *   0.power 350000    a figure of GPU 0; of its part 1 it would be 0.1.power
 *   0.ecc !3          the error 3 instead of a figure; a figure that has no line is "not supported", which is 3
 *   init !9           the driver is not loaded
 *   xid.1 79          GPU 0 reports the Xid 79 as the first event; 1079 were the same of GPU 1
 */
#define NULL ((void *)0) /* no headers: a machine without a compiler has none of the C library's either */
typedef unsigned long size_t;
typedef struct file FILE;
FILE *fopen(const char *path, const char *mode);
char *fgets(char *line, int size, FILE *file);
int fclose(FILE *file);
int snprintf(char *text, size_t size, const char *format, ...);
int atoi(const char *text);
unsigned long long strtoull(const char *text, char **end, int radix);
char *getenv(const char *name);
size_t strlen(const char *text);
size_t strcspn(const char *text, const char *these);
int strncmp(const char *one, const char *other, size_t most);

#define PARTS 64

typedef size_t device; /* 1 + the GPU's number, and 1 + the part's number times PARTS */
enum { OK = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6, TIMEOUT = 10 };
static int events;

static int text_of(const char *key, char *text, size_t size) {
    char line[256];
    int found = NOT_SUPPORTED;
    const char *path = getenv("FAKE_NVML");
    FILE *file = path ? fopen(path, "r") : NULL;
    while (file && fgets(line, sizeof line, file)) {
        size_t length = strlen(key);
        if (strncmp(line, key, length) || line[length] != ' ')
            continue;
        line[strcspn(line, "\n")] = 0;
        found = line[length + 1] == '!' ? atoi(line + length + 2) : OK;
        snprintf(text, size, "%s", line + length + 1);
    }
    if (file)
        fclose(file);
    return found;
}

static int number_of(const char *key, unsigned long long *value) {
    char text[256] = "";
    int found = text_of(key, text, sizeof text);
    if (found == OK)
        *value = strtoull(text, NULL, 10);
    return found;
}

static void key_of(device one, const char *figure, char *key) {
    size_t gpu = one % PARTS - 1, part = one / PARTS;
    if (part)
        snprintf(key, 64, "%zu.%zu.%s", gpu, part - 1, figure);
    else
        snprintf(key, 64, "%zu.%s", gpu, figure);
}

static int figure_of(device one, const char *figure, unsigned long long *value) {
    char key[64];
    key_of(one, figure, key);
    return number_of(key, value);
}

static int word_of(device one, const char *figure, char *text, unsigned size) {
    char key[64];
    key_of(one, figure, key);
    return text_of(key, text, size);
}

static int small(device one, const char *figure, unsigned *value) {
    unsigned long long found = 0;
    int status = figure_of(one, figure, &found);
    *value = (unsigned)found;
    return status;
}

static int driver(void) {
    unsigned long long ignored;
    int status = number_of("init", &ignored);
    return status == NOT_SUPPORTED ? OK : status;
}

int nvmlInitWithFlags(unsigned flags) { return (void)flags, driver(); }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int status) { return status == 9 ? "Driver Not Loaded" : "an error"; }
int nvmlSystemGetDriverVersion(char *text, unsigned size) { return text_of("version", text, size); }

int nvmlSystemGetCudaDriverVersion_v2(int *version) {
    unsigned long long found = 0;
    int status = number_of("cuda", &found);
    *version = (int)found;
    return status;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    unsigned long long found = 0;
    int status = driver();
    if (status == OK)
        status = number_of("count", &found);
    *count = (unsigned)found;
    return status;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, device *found) {
    unsigned ignored;
    *found = index + 1;
    return small(*found, "handle", &ignored) == NOT_SUPPORTED ? OK : small(*found, "handle", &ignored);
}

int nvmlDeviceGetName(device one, char *text, unsigned size) { return word_of(one, "name", text, size); }
int nvmlDeviceGetUUID(device one, char *text, unsigned size) { return word_of(one, "uuid", text, size); }
int nvmlDeviceGetPowerUsage(device one, unsigned *mw) { return small(one, "power", mw); }

int nvmlDeviceGetTemperature(device one, int sensor, unsigned *celsius) {
    return (void)sensor, small(one, "temperature", celsius);
}

int nvmlDeviceGetUtilizationRates(device one, unsigned *rates) {
    rates[1] = 0;
    return small(one, "utilization", rates);
}

int nvmlDeviceGetMemoryInfo_v2(device one, void *told) {
    struct { unsigned version; unsigned long long total, reserved, free, used; } *memory = told;
    int status = figure_of(one, "used_v2", &memory->used);
    return status == OK ? figure_of(one, "total", &memory->total) : status;
}

int nvmlDeviceGetMemoryInfo(device one, unsigned long long *memory) { /* total, free, used */
    int status = figure_of(one, "used", &memory[2]);
    return status == OK ? figure_of(one, "total", &memory[0]) : status;
}

int nvmlDeviceGetTotalEccErrors(device one, int type, int counter, unsigned long long *count) {
    return type == 1 && counter == 0 ? figure_of(one, "ecc", count) : NOT_SUPPORTED; /* uncorrected, volatile */
}

int nvmlDeviceGetCudaComputeCapability(device one, int *major, int *minor) {
    unsigned found = 0;
    int status = small(one, "capability", &found);
    *major = (int)found / 10, *minor = (int)found % 10;
    return status;
}

int nvmlDeviceGetMigMode(device one, unsigned *now, unsigned *later) {
    unsigned parts;
    int status = small(one, "parts", &parts);
    *now = *later = 1;
    return status;
}

int nvmlDeviceGetMaxMigDeviceCount(device one, unsigned *count) { return small(one, "parts", count); }

int nvmlDeviceGetMigDeviceHandleByIndex(device one, unsigned index, device *part) {
    char ignored[256];
    *part = one + PARTS * (index + 1);
    return word_of(*part, "name", ignored, sizeof ignored) == OK ? OK : NOT_FOUND;
}

int nvmlEventSetCreate(void **set) { return *set = &events, OK; }
int nvmlEventSetFree(void *set) { return (void)set, OK; }

int nvmlDeviceGetSupportedEventTypes(device one, unsigned long long *types) {
    return figure_of(one, "events", types);
}

int nvmlDeviceRegisterEvents(device one, unsigned long long types, void *set) {
    return (void)one, (void)types, (void)set, OK;
}

int nvmlEventSetWait_v2(void *set, void *told, unsigned timeout) {
    struct { device one; unsigned long long type, data; unsigned instance, compute; } *event = told;
    unsigned long long found = 0;
    char key[64];
    (void)set, (void)timeout;
    snprintf(key, sizeof key, "xid.%d", events + 1);
    if (number_of(key, &found) != OK)
        return TIMEOUT;
    events++;
    event->one = found / 1000 + 1, event->type = 8, event->data = found % 1000;
    return OK;
}
