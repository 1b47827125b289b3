// session DUMP COMMAND...: opens a dump in Microsoft's debugger engine, runs each command, writes all it says.
// Interface identifiers are those of dbgeng.h. The process ends itself: the engine's own end waits for windows.

#include <initguid.h>
#include <windows.h>

#include <dbgeng.h>
#include <stdio.h>

static const GUID kOutputCallbacks = {0x4bf58045, 0xd654, 0x4c40, {0xb0, 0xaf, 0x68, 0x30, 0x90, 0xf3, 0x56, 0xdc}};
static const GUID kClient = {0x27fe5639, 0x8407, 0x4f47, {0x83, 0x64, 0xee, 0x11, 0x8f, 0xb0, 0x8a, 0xc8}};
static const GUID kControl = {0x5182e668, 0x105e, 0x416e, {0xad, 0x92, 0x24, 0xef, 0x80, 0x04, 0x24, 0xba}};

struct Printer : IDebugOutputCallbacks {
  STDMETHOD(QueryInterface)(REFIID wanted, PVOID* found) {
    *found = wanted == kOutputCallbacks ? this : nullptr;
    return *found ? S_OK : E_NOINTERFACE;
  }
  STDMETHOD_(ULONG, AddRef)() { return 1; }
  STDMETHOD_(ULONG, Release)() { return 0; }
  STDMETHOD(Output)(ULONG, PCSTR text) {
    fputs(text, stdout);
    fflush(stdout);
    return S_OK;
  }
};

static void end(const char* step, HRESULT result) {
  if (FAILED(result)) printf("\n%s failed: %lx\n", step, result);
  fflush(stdout);
  TerminateProcess(GetCurrentProcess(), FAILED(result) ? 1 : 0);
}

static void check(const char* step, HRESULT result) {
  if (FAILED(result)) end(step, result);
}

int main(int count, char** arguments) {
  static Printer output;
  IDebugClient* client = nullptr;
  IDebugControl* control = nullptr;
  if (count < 2) return 2;
  HMODULE engine = LoadLibraryA("dbgeng.dll");
  auto create = reinterpret_cast<HRESULT(WINAPI*)(REFIID, void**)>(
      reinterpret_cast<void*>(engine ? GetProcAddress(engine, "DebugCreate") : nullptr));
  if (!create) return 2;
  check("DebugCreate", create(kClient, reinterpret_cast<void**>(&client)));
  check("QueryInterface", client->QueryInterface(kControl, reinterpret_cast<void**>(&control)));
  check("SetOutputCallbacks", client->SetOutputCallbacks(&output));
  check("OpenDumpFile", client->OpenDumpFile(arguments[1]));
  check("WaitForEvent", control->WaitForEvent(0, INFINITE));
  for (int index = 2; index < count; index++) {
    printf("\n0:000> %s\n", arguments[index]);
    control->Execute(DEBUG_OUTCTL_THIS_CLIENT, arguments[index], DEBUG_EXECUTE_DEFAULT);
  }
  end("session", S_OK);
}
