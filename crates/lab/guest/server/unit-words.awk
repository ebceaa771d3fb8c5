# Takes a unit's command line apart, as systemd.service(5) has it under "Command lines": words in quotes of both kinds, a backslash before the next
# character, `%%` and `$$`. Writes the words as a shell wants them. Specifiers and variables are not known here.
{
    word = ""
    is_word = 0
    quote = ""
    for (at = 1; at <= length($0); at++) {
        c = substr($0, at, 1)
        if (quote == "" && (c == " " || c == "\t")) {
            if (is_word) printf "'%s' ", word
            word = ""
            is_word = 0
            continue
        }
        is_word = 1
        if (quote == "" && (c == "\"" || c == "'")) { quote = c; continue }
        if (c == quote) { quote = ""; continue }
        if (c == "\\") {
            at++
            c = substr($0, at, 1)
        } else if (c == "%" || c == "$") {
            at++
            if (substr($0, at, 1) != c) exit 1
        }
        # A quote is closed, written by itself, and opened again.
        word = word (c == "'" ? "'\\''" : c)
    }
    if (quote != "") exit 1
    if (is_word) printf "'%s'", word
}
