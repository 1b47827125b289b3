"""Why it does not work here: servers, stores and the debugger's variables, examined, and what to do."""
