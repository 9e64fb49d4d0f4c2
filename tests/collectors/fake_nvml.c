/* A libnvidia-ml.so.1 for tests: what nvidia-ml-py asks of it is answered from a text file.

   FAKE_NVML names the file, read at each call. Lines are KEY=VALUE; a GPU's keys begin with its
   number: "0.power_mw=512000". A value "!15" makes the call return NVML error 15; a key that is
   missing is Not Supported (3). "0.lost=15" makes every call for that GPU return 15. "generation"
   names the loaded driver: if it differs from the one at nvmlInit, everything is Uninitialized;
   "driver=gone" is Driver Not Loaded. "events=0:79,1:48" are XID events, each given once.
   With -DOLD_DRIVER, functions that came late are not exported. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GPUS 16
typedef struct device { int number; } *Device;
static struct device devices[GPUS];
static int initialized, events_given;
static long generation;

static int look(const char *key, char *value, size_t size) {
  const char *path = getenv("FAKE_NVML");
  FILE *file = path ? fopen(path, "r") : NULL;
  char line[512];
  size_t length = strlen(key);
  int found = 0;
  if (!file) return 0;
  while (!found && fgets(line, sizeof line, file))
    if (!strncmp(line, key, length) && line[length] == '=') {
      line[strcspn(line, "\n")] = 0;
      snprintf(value, size, "%s", line + length + 1);
      found = 1;
    }
  fclose(file);
  return found;
}

static int library(void) {
  char value[256];
  if (look("driver", value, sizeof value) && !strcmp(value, "gone")) return 9;
  if (!initialized) return 1;
  return look("generation", value, sizeof value) && atol(value) != generation ? 1 : 0;
}

static int text(Device device, const char *name, char *value, size_t size) {
  char key[128];
  int code = library();
  if (code) return code;
  snprintf(key, sizeof key, "%d.lost", device->number);
  if (look(key, value, size)) return atoi(value);
  snprintf(key, sizeof key, "%d.%s", device->number, name);
  if (!look(key, value, size)) return 3;
  return value[0] == '!' ? atoi(value + 1) : 0;
}

static int number(Device device, const char *name, unsigned long long *out) {
  char value[256];
  int code = text(device, name, value, sizeof value);
  if (!code) *out = strtoull(value, NULL, 0);
  return code;
}

int nvmlInitWithFlags(unsigned flags) {
  char value[256];
  (void)flags;
  if (look("driver", value, sizeof value) && !strcmp(value, "gone")) return 9;
  generation = look("generation", value, sizeof value) ? atol(value) : 0;
  for (int i = 0; i < GPUS; i++) devices[i].number = i;
  initialized = 1;
  return 0;
}
int nvmlShutdown(void) {
  int code = library();
  initialized = 0;
  return code;
}
const char *nvmlErrorString(int code) {
  return code == 3 ? "Not Supported" : code == 15 ? "GPU is lost" : "an error of the fake";
}
int nvmlDeviceGetCount_v2(unsigned *count) {
  char value[256];
  int code = library();
  if (!code) *count = look("count", value, sizeof value) ? (unsigned)atoi(value) : 0;
  return code;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device *device) {
  unsigned count = 0;
  int code = nvmlDeviceGetCount_v2(&count);
  if (code) return code;
  if (index >= count) return 2;
  *device = &devices[index];
  return 0;
}
int nvmlDeviceGetUUID(Device device, char *out, unsigned size) { return text(device, "uuid", out, size); }
int nvmlDeviceGetName(Device device, char *out, unsigned size) { return text(device, "name", out, size); }

#define NUMBER(function, key, type)                     \
  int function(Device device, type *out) {              \
    unsigned long long found = 0;                       \
    int code = number(device, key, &found);             \
    if (!code) *out = (type)found;                      \
    return code;                                        \
  }
NUMBER(nvmlDeviceGetPowerUsage, "power_mw", unsigned)
NUMBER(nvmlDeviceGetTotalEnergyConsumption, "energy_mj", unsigned long long)
NUMBER(nvmlDeviceGetCurrentClocksThrottleReasons, "reasons", unsigned long long)
#ifndef OLD_DRIVER
NUMBER(nvmlDeviceGetCurrentClocksEventReasons, "reasons", unsigned long long)
#endif

int nvmlDeviceGetClockInfo(Device device, unsigned kind, unsigned *out) {
  unsigned long long found = 0;
  int code = number(device, kind == 2 ? "memory_clock_mhz" : "sm_clock_mhz", &found);
  if (!code) *out = (unsigned)found;
  return code;
}
int nvmlDeviceGetTemperature(Device device, unsigned sensor, unsigned *out) {
  unsigned long long found = 0;
  int code = sensor ? 2 : number(device, "temperature_c", &found);
  if (!code) *out = (unsigned)found;
  return code;
}
int nvmlDeviceGetUtilizationRates(Device device, unsigned out[2]) {
  unsigned long long found = 0;
  int code = number(device, "utilization", &found);
  if (!code) out[0] = (unsigned)found, out[1] = 0;
  return code;
}
int nvmlDeviceGetTotalEccErrors(Device device, int error, int counter, unsigned long long *out) {
  return error == 1 && counter == 1 ? number(device, "ecc_uncorrected", out) : 2;
}

static int memory(Device device, unsigned long long *total, unsigned long long *used,
                  unsigned long long *reserved) {
  int code = number(device, "memory_total", total);
  if (!code) code = number(device, "memory_used", used);
  return code ? code : number(device, "memory_reserved", reserved);
}
struct memory_v1 { unsigned long long total, free, used; };
int nvmlDeviceGetMemoryInfo(Device device, struct memory_v1 *out) {
  unsigned long long total = 0, used = 0, reserved = 0;
  int code = memory(device, &total, &used, &reserved);
  if (!code) *out = (struct memory_v1){total, total - used - reserved, used + reserved};
  return code;
}
#ifndef OLD_DRIVER
struct memory_v2 { unsigned version; unsigned long long total, reserved, free, used; };
int nvmlDeviceGetMemoryInfo_v2(Device device, struct memory_v2 *out) {
  unsigned long long total = 0, used = 0, reserved = 0;
  int code = memory(device, &total, &used, &reserved);
  if (out->version != 0x02000028) return 25;
  if (!code) out->total = total, out->reserved = reserved, out->used = used,
             out->free = total - used - reserved;
  return code;
}
#endif

struct process { unsigned pid; unsigned long long memory; unsigned gpu, compute; };
int nvmlDeviceGetComputeRunningProcesses_v3(Device device, unsigned *count, struct process *out) {
  unsigned long long found = 0;
  int code = number(device, "processes", &found);
  if (code) return code;
  if (!found || *count < found) {
    *count = (unsigned)found;
    return found ? 7 : 0;
  }
  for (unsigned i = 0; i < found; i++) out[i] = (struct process){100 + i, ~0ULL, ~0u, ~0u};
  *count = (unsigned)found;
  return 0;
}

struct field {
  unsigned id, scope;
  long long timestamp, latency;
  int kind, code;
  union { double real; unsigned long long whole; } value;
};
int nvmlDeviceGetFieldValues(Device device, int count, struct field *fields) {
  int code = library();
  for (int i = 0; !code && i < count; i++) {
    unsigned long long found = 0;
    const char *name = fields[i].id == 138 ? "nvlink_tx_kib" : fields[i].id == 139 ? "nvlink_rx_kib" : "";
    fields[i].code = fields[i].scope == 0xFFFFFFFFu ? number(device, name, &found) : 2;
    fields[i].kind = 3;
    fields[i].value.whole = found;
  }
  return code;
}

struct event { Device device; unsigned long long kind, data; unsigned gpu, compute; };
int nvmlEventSetCreate(void **set) { *set = &events_given; return library(); }
int nvmlEventSetFree(void *set) { (void)set; return 0; }
int nvmlDeviceRegisterEvents(Device device, unsigned long long kinds, void *set) {
  unsigned long long refused = 0;
  (void)kinds, (void)set;
  return number(device, "no_events", &refused) ? 0 : 3;
}
int nvmlEventSetWait_v2(void *set, struct event *out, unsigned timeout_ms) {
  char value[256] = "", *at = value;
  int code = library();
  (void)set, (void)timeout_ms;
  if (code) return code;
  if (!look("events", value, sizeof value)) return 10;
  for (int i = 0; i < events_given && at; i++) at = (at = strchr(at, ',')) ? at + 1 : NULL;
  if (!at || !*at) return 10;
  int gpu = atoi(at);
  *out = (struct event){&devices[gpu], 8, strtoull(strchr(at, ':') + 1, NULL, 0), ~0u, ~0u};
  events_given++;
  return 0;
}
