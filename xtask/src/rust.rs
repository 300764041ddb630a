//! One Rust file, parsed: where its functions, types, modules and unsafe code are.

use anyhow::Context as _;
use syn::{
    Attribute, Block, ExprUnsafe, Ident, ImplItemFn, ItemEnum, ItemFn, ItemForeignMod, ItemImpl, ItemMod, ItemStruct,
    ItemTrait, ItemType, Macro, Signature, TraitItemFn, spanned::Spanned as _, visit, visit::Visit,
};

/// A thing with a name.
#[derive(Debug)]
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) line: usize,
    pub(crate) is_module: bool,
}

/// A function.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) line: usize,
    /// From its signature to its closing brace.
    pub(crate) lines: usize,
    pub(crate) is_test: bool,
}

/// What a file has.
#[derive(Debug, Default)]
pub(crate) struct Source {
    /// Lines outside of `#[cfg(test)]` modules.
    pub(crate) lines: usize,
    /// Lines inside of them.
    pub(crate) test_lines: usize,
    pub(crate) functions: Vec<Function>,
    pub(crate) names: Vec<Named>,
    /// Lines that begin unsafe blocks, functions, impls and foreign items.
    pub(crate) unsafe_lines: Vec<usize>,
    /// Macros that stand for unfinished work, with their lines.
    pub(crate) unfinished: Vec<(String, usize)>,
    depth_of_tests: usize,
}

impl Source {
    /// Parses a file; `is_test` says that all of it is a test.
    pub(crate) fn parse(text: &str, is_test: bool) -> anyhow::Result<Self> {
        let file = syn::parse_file(text).context("not Rust that can be parsed")?;
        let mut source = Self {
            depth_of_tests: usize::from(is_test),
            ..Self::default()
        };
        source.visit_file(&file);
        let all = text.lines().count();
        if is_test {
            source.test_lines = all;
        }
        source.lines = all.saturating_sub(source.test_lines);
        Ok(source)
    }

    fn function(&mut self, signature: &Signature, block: &Block) {
        let first = signature.span().start().line;
        let last = block.span().end().line;
        self.functions.push(Function {
            name: signature.ident.to_string(),
            line: first,
            lines: last + 1 - first,
            is_test: self.depth_of_tests > 0,
        });
        if signature.unsafety.is_some() {
            self.unsafe_lines.push(first);
        }
    }

    fn named(&mut self, ident: &Ident, is_module: bool) {
        self.names.push(Named {
            name: ident.to_string(),
            line: ident.span().start().line,
            is_module,
        });
    }
}

impl<'ast> Visit<'ast> for Source {
    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast TraitItemFn) {
        if let Some(block) = &item.default {
            self.function(&item.sig, block);
        }
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        self.named(&item.ident, true);
        let is_test = item.attrs.iter().any(is_cfg_test) && item.content.is_some();
        if is_test && self.depth_of_tests == 0 {
            let span = item.span();
            self.test_lines += span.end().line + 1 - span.start().line;
        }
        self.depth_of_tests += usize::from(is_test);
        visit::visit_item_mod(self, item);
        self.depth_of_tests -= usize::from(is_test);
    }

    fn visit_item_struct(&mut self, item: &'ast ItemStruct) {
        self.named(&item.ident, false);
        visit::visit_item_struct(self, item);
    }

    fn visit_item_enum(&mut self, item: &'ast ItemEnum) {
        self.named(&item.ident, false);
        visit::visit_item_enum(self, item);
    }

    fn visit_item_trait(&mut self, item: &'ast ItemTrait) {
        self.named(&item.ident, false);
        visit::visit_item_trait(self, item);
    }

    fn visit_item_type(&mut self, item: &'ast ItemType) {
        self.named(&item.ident, false);
        visit::visit_item_type(self, item);
    }

    fn visit_item_impl(&mut self, item: &'ast ItemImpl) {
        if let Some(unsafety) = &item.unsafety {
            self.unsafe_lines.push(unsafety.span().start().line);
        }
        visit::visit_item_impl(self, item);
    }

    fn visit_item_foreign_mod(&mut self, item: &'ast ItemForeignMod) {
        self.unsafe_lines.push(item.span().start().line);
        visit::visit_item_foreign_mod(self, item);
    }

    fn visit_expr_unsafe(&mut self, item: &'ast ExprUnsafe) {
        self.unsafe_lines.push(item.unsafe_token.span().start().line);
        visit::visit_expr_unsafe(self, item);
    }

    fn visit_macro(&mut self, item: &'ast Macro) {
        let name = item.path.segments.last().map(|s| s.ident.to_string());
        if let Some(name) = name.filter(|n| n == "todo" || n == "unimplemented") {
            self.unfinished.push((name, item.span().start().line));
        }
        visit::visit_macro(self, item);
    }
}

/// `#[cfg(test)]`, alone or among other conditions that all must hold.
fn is_cfg_test(attribute: &Attribute) -> bool {
    let syn::Meta::List(list) = &attribute.meta else {
        return false;
    };
    let condition: String = list.tokens.to_string().split_whitespace().collect();
    list.path.is_ident("cfg") && (condition == "test" || condition.starts_with("all(test,"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_has_is_found() {
        let text = "mod inner {\n    struct Thing;\n}\nfn long() {\n\n\n}\n#[cfg(test)]\nmod tests {\n    fn f() {\n        \
                    unsafe { g() }\n        todo!()\n    }\n}\n";
        let source = Source::parse(text, false).unwrap();
        assert_eq!((source.lines, source.test_lines), (7, 7));
        let lengths: Vec<_> = source
            .functions
            .iter()
            .map(|f| (f.name.as_str(), f.lines, f.is_test))
            .collect();
        assert_eq!(lengths, [("long", 4, false), ("f", 4, true)]);
        let names: Vec<_> = source.names.iter().map(|n| (n.name.as_str(), n.is_module)).collect();
        assert_eq!(names, [("inner", true), ("Thing", false), ("tests", true)]);
        assert_eq!(source.unsafe_lines, [11]);
        assert_eq!(source.unfinished, [("todo".to_owned(), 12)]);
    }
}
