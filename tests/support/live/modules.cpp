// Prints what Windows says of this process and of the kernel, by the functions that Microsoft documents, and waits for
// the end of its input. Lines: "driver BASE PATH", "module BASE SIZE STAMP PATH", "ready ID".
#include <windows.h>

#include <psapi.h>
#include <tlhelp32.h>
#include <winternl.h>

#include <cstdio>
#include <vector>

struct Driver {
    HANDLE section;
    PVOID mapped_base;
    PVOID image_base;
    ULONG image_size;
    ULONG flags;
    USHORT load_order, init_order, load_count, name_offset;
    CHAR path[256];
};

struct Drivers {
    ULONG count;
    Driver first[1];
};

static void print_drivers() {
    std::vector<char> data(1 << 20);
    ULONG needed = 0;
    if (NtQuerySystemInformation(static_cast<SYSTEM_INFORMATION_CLASS>(11), data.data(), data.size(), &needed) != 0) return;
    const Drivers *list = reinterpret_cast<const Drivers *>(data.data());
    for (ULONG i = 0; i < list->count; i++)
        printf("driver %llx %s\n", (unsigned long long)(ULONG_PTR)list->first[i].image_base, list->first[i].path);
}

// By the snapshot, which is another way than the one that symcache goes.
static void print_modules() {
    HANDLE snapshot = CreateToolhelp32Snapshot(TH32CS_SNAPMODULE | TH32CS_SNAPMODULE32, GetCurrentProcessId());
    MODULEENTRY32W entry = {};
    entry.dwSize = sizeof entry;
    for (BOOL more = Module32FirstW(snapshot, &entry); more; more = Module32NextW(snapshot, &entry)) {
        const BYTE *base = entry.modBaseAddr;
        const LONG at = reinterpret_cast<const IMAGE_DOS_HEADER *>(base)->e_lfanew;
        const IMAGE_NT_HEADERS *headers = reinterpret_cast<const IMAGE_NT_HEADERS *>(base + at);
        char path[1024];
        WideCharToMultiByte(CP_UTF8, 0, entry.szExePath, -1, path, sizeof path, nullptr, nullptr);
        printf("module %llx %lx %lx %s\n", (unsigned long long)(ULONG_PTR)base, headers->OptionalHeader.SizeOfImage,
               headers->FileHeader.TimeDateStamp, path);
    }
    CloseHandle(snapshot);
}

int main() {
    print_drivers();
    print_modules();
    printf("ready %lu\n", GetCurrentProcessId());
    fflush(stdout);
    while (getchar() != EOF) {}
    return 0;
}
