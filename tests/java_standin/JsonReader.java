package evaluation;

import java.io.EOFException;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.Reader;
import java.util.ArrayDeque;
import java.util.Deque;

/**
 * Reads JSON token by token, as strictly as the library that the organizers' program uses (Gson
 * 2.2.4 in its default mode): a value of another kind than the caller asks for is an
 * IllegalStateException, and text that is not JSON is an IOException.
 */
class JsonReader {
    enum Kind { ARRAY, END_ARRAY, OBJECT, END_OBJECT, NAME, STRING, NUMBER, BOOLEAN, NULL }

    private static final String NUMBER = "-?(0|[1-9][0-9]*)([.][0-9]+)?([eE][-+]?[0-9]+)?";
    private static final int LONGEST_NUMBER = 1023; // characters

    private final Reader in;
    private int next; // the character that is read next, -1 at the end
    private Kind peeked; // the token that is read next, null if not known yet
    private String literal; // the text of a peeked number or keyword
    /** 'd' the document, '[' an array, '{' an object, ':' an object whose name has been read. */
    private final Deque<Character> scopes = new ArrayDeque<>();
    private boolean empty = true; // nothing has been read in the innermost array or object

    JsonReader(String file) throws IOException {
        in = new InputStreamReader(new FileInputStream(file)); // in the machine's own encoding
        next = in.read();
        if (next == 0xFEFF) {
            next = in.read();
        }
        scopes.push('d');
    }

    Kind peek() throws IOException {
        if (peeked == null) {
            peeked = find();
        }
        return peeked;
    }

    boolean hasNext() throws IOException {
        return peek() != Kind.END_ARRAY && peek() != Kind.END_OBJECT;
    }

    void begin(Kind kind) throws IOException {
        take(kind);
        scopes.push(kind == Kind.ARRAY ? '[' : '{');
        empty = true;
    }

    void end(Kind kind) throws IOException {
        take(kind);
        scopes.pop();
        valueDone();
    }

    String nextName() throws IOException {
        take(Kind.NAME);
        String name = quoted();
        expect(':');
        scopes.push(':');
        return name;
    }

    /** A string, or a number as it is written; a whole number that fits 64 bits loses "-0". */
    String nextString() throws IOException {
        String text;
        if (peek() == Kind.NUMBER) {
            take(Kind.NUMBER);
            text = literal;
            try {
                text = Long.toString(Long.parseLong(literal));
            } catch (NumberFormatException ignored) {
                // a fraction, an exponent or more than 64 bits: stays as written
            }
        } else {
            take(Kind.STRING);
            text = quoted();
        }
        valueDone();
        return text;
    }

    /** A whole number, which may be written as a string or with a fraction of zero. */
    int nextInt() throws IOException {
        double value = Double.parseDouble(nextString());
        if (value != (int) value) {
            throw new NumberFormatException("Expected an int but was " + value);
        }
        return (int) value;
    }

    void skipValue() throws IOException {
        int depth = 0;
        do {
            switch (peek()) {
                case ARRAY:
                case OBJECT:
                    begin(peek());
                    depth++;
                    break;
                case END_ARRAY:
                case END_OBJECT:
                    end(peek());
                    depth--;
                    break;
                case NAME:
                    nextName();
                    break;
                case STRING:
                case NUMBER:
                    nextString();
                    break;
                default:
                    take(peek());
                    valueDone();
            }
        } while (depth > 0);
    }

    private void take(Kind kind) throws IOException {
        if (peek() != kind) {
            throw new IllegalStateException("Expected " + kind + " but was " + peek());
        }
        peeked = null;
    }

    private void valueDone() {
        if (scopes.peek() == ':') {
            scopes.pop();
        }
        empty = false;
    }

    private Kind find() throws IOException {
        char scope = scopes.peek();
        if (scope == '[' || scope == '{') {
            char close = scope == '[' ? ']' : '}';
            space();
            if (next == close) {
                next = in.read();
                return scope == '[' ? Kind.END_ARRAY : Kind.END_OBJECT;
            }
            if (!empty) {
                expect(',');
            }
            if (scope == '{') {
                expect('"');
                return Kind.NAME;
            }
        }
        space();
        int first = next;
        if (first == '[' || first == '{' || first == '"') {
            if (first == '"' && scope == 'd') {
                throw new IOException("the document is not an array or object");
            }
            next = in.read();
            return first == '[' ? Kind.ARRAY : first == '{' ? Kind.OBJECT : Kind.STRING;
        }
        StringBuilder word = new StringBuilder();
        while (next != -1 && "{}[]:, \t\f\r\n".indexOf(next) < 0) {
            word.append((char) next);
            next = in.read();
        }
        literal = word.toString();
        if (scope != 'd' && literal.matches(NUMBER) && literal.length() <= LONGEST_NUMBER) {
            return Kind.NUMBER;
        }
        if (scope != 'd' && literal.matches("(?i)true|false|null")) {
            return literal.equalsIgnoreCase("null") ? Kind.NULL : Kind.BOOLEAN;
        }
        throw next == -1 ? new EOFException("End of input") : new IOException("no JSON: " + literal);
    }

    private void space() throws IOException {
        while (next == ' ' || next == '\t' || next == '\r' || next == '\n') {
            next = in.read();
        }
    }

    private void expect(char wanted) throws IOException {
        space();
        if (next != wanted) {
            throw new IOException("Expected " + wanted);
        }
        next = in.read();
    }

    /** The rest of a string whose opening quote has been read; line breaks in it are allowed. */
    private String quoted() throws IOException {
        StringBuilder text = new StringBuilder();
        while (next != '"') {
            if (next == '\\') {
                next = escaped();
            }
            if (next == -1) {
                throw new EOFException("Unterminated string");
            }
            text.append((char) next);
            next = in.read();
        }
        next = in.read();
        return text.toString();
    }

    private int escaped() throws IOException {
        int letter = in.read();
        if (letter == 'u') {
            StringBuilder digits = new StringBuilder();
            while (digits.length() < 4) {
                digits.append((char) in.read());
            }
            return Integer.parseInt(digits.toString(), 16);
        }
        int place = "tbnrf".indexOf(letter);
        return place < 0 ? letter : "\t\b\n\r\f".charAt(place);
    }
}
